//! What every master of a cluster must be told on a connection of its own: WAIT, SAVE, SCRIPT KILL, CLIENT PAUSE.
//!
//! *Invariant:* all are asked at once, so that what waits waits once; the client gets one reply, made of theirs. Not here:
//! what may ride lanes (`dispatch::spread`), which commands these are and how replies are joined (`command`).

use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use super::checkout::pool_for;
use super::connection::{Connection, Over, Until};
use super::dedicated::WAIT_CHANNEL;
use crate::command::Row;
use crate::command::join::join;
use crate::command::spread::Join;
use crate::dispatch::Worker;
use crate::dispatch::accounts::Place;
use crate::dispatch::gather::Shard;
use crate::dispatch::pause::Asked;
use crate::error::Error;
use crate::protocol::{Args, encode};
use crate::telemetry::labels::{Class, Outcome};
use crate::upstream::dedicated::PoolKind;

/// One node's share of the question.
struct Question {
    identity: u32,
    /// Whom it is for.
    shard: Shard,
    /// All who are asked.
    asked: Rc<[Shard]>,
    kind: PoolKind,
    proto: u8,
    request: Bytes,
    /// Whether the answer may take as long as it likes.
    waits: bool,
}

// === impl Connection ===

impl Connection {
    /// Asks every master, and answers with what they say together.
    pub(super) async fn ask_all(
        &mut self,
        row: &'static Row,
        class: Class,
        how: Join,
        args: &Args<'_>,
    ) -> Result<(), Over> {
        self.worker.cells.command(class, Outcome::Forwarded);
        let asked = Asked::of(row.name, args);
        if let Some(asked) = asked {
            self.worker.peers.pause.ask(asked);
            if asked != Asked::Unpause {
                self.worker.executed().await;
            }
        }
        if class == Class::Sweep {
            self.worker.sweeping();
        }
        let kind = pool_for(class, Some(row), self.worker.peers.pause.is_on());
        let shards: Rc<[Shard]> = self.worker.shards_of_masters().into();
        let question = |shard| Question {
            identity: self.session.lane().identity,
            shard,
            asked: Rc::clone(&shards),
            kind,
            proto: if self.session.resp3() { 3 } else { 2 },
            request: Bytes::copy_from_slice(args.raw),
            waits: matches!(row.name, "wait" | "waitaof"),
        };
        let answers = shards.iter().map(|&shard| {
            let (worker, question) = (Rc::clone(&self.worker), question(shard));
            tokio::task::spawn_local(async move { worker.ask_node(&question).await })
        });
        let answers: Vec<_> = answers.collect();
        let ends: Vec<_> = answers.iter().map(|answer| answer.abort_handle()).collect();
        let all = async {
            let mut replies = Vec::new();
            for answer in answers {
                replies.push(answer.await.unwrap_or_default());
            }
            replies
        };
        let replies = tokio::select! {
            replies = all => Ok(replies),
            over = std::future::poll_fn(|cx| self.poll_until(cx, Until::Over)) => over.map(|()| Vec::new()),
        };
        if replies.is_err() {
            // Whoever waits for nobody is closed with its connection.
            ends.iter().for_each(|end| end.abort());
            if let Some(asked) = asked {
                self.worker.peers.pause.answered(asked, asked != Asked::Unpause);
            }
        }
        let replies = replies?;
        let replies: Vec<&[u8]> = replies.iter().map(Vec::as_slice).collect();
        let mut reply = BytesMut::new();
        if join(how, &replies, &mut reply).is_err() {
            reply.extend_from_slice(&self.failed(&Error::NotJoinable));
        }
        self.worker.begin_batch();
        if class == Class::Sweep {
            self.worker.swept();
        }
        if let Some(asked) = asked {
            self.worker.peers.pause.answered(asked, !reply.starts_with(b"-"));
        }
        self.answer(&reply);
        self.session.spoken();
        Ok(())
    }
}

// === impl Worker ===

impl Worker {
    /// One node's answer, or the error in its place.
    async fn ask_node(&self, question: &Question) -> Vec<u8> {
        let Question { identity, shard, asked, kind, proto, request, waits } = question;
        // Where nobody has clearly taken over it stays with whom it was for.
        let now = || self.successor(*shard, asked).unwrap_or(shard.node);
        let place = Place { node: shard.node, now: Some(&now) };
        let checked_out = self.check_out_aligned(*identity, place, *kind, Some(*proto), None).await;
        let (node, mut connection) = match checked_out {
            Ok(checked_out) => checked_out,
            Err(reply) => return reply,
        };
        if *waits {
            // Sets the connection's replication offset to the present.
            let mut publish = BytesMut::new();
            encode::request(&mut publish, &["PUBLISH", WAIT_CHANNEL, ""]);
            connection.send(&publish, 1);
        }
        connection.send(request, 1);
        let upstream = || self.settings.topology.name(node);
        let answer = async {
            connection.flush().await.map_err(|error| error.to_string())?;
            if *waits {
                connection.read_reply().await.map_err(|error| error.to_string())?;
            }
            connection.read_reply().await.map_err(|error| error.to_string())
        };
        let limit = self.settings.upstream.command_timeout;
        let answer = if *waits { Ok(answer.await) } else { tokio::time::timeout(limit, answer).await };
        let error = match answer {
            Ok(Ok(piece)) => return piece.bytes.to_vec(),
            Ok(Err(cause)) => Error::Lost { upstream: upstream(), cause },
            Err(_) => Error::Timeout { upstream: upstream() },
        };
        connection.taint();
        self.cells.error(error.kind());
        error.reply()
    }
}
