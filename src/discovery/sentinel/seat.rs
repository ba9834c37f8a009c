//! One Sentinel, asked for as long as its task lives: every second, and at once when something speaks against what it
//! said last, or when it says itself that the master changes.
//!
//! One connection, RESP3, so that its events and its answers come on the same. *Invariant:* a question has a time limit;
//! one that is not answered closes the connection, and the next attempt comes after a pause.

use std::collections::HashMap;
use std::time::Duration;

use bb8_redis::redis;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::opinions::Word;
use crate::net::Address;
use crate::upstream::control::{Target, Unanswered};
use crate::upstream::slots::AddressMap;

/// Between two questions without a doubt.
const PERIOD: Duration = Duration::from_secs(1);

/// First and longest pause before a silent Sentinel is tried again.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// See `PAUSE_MIN`.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Time for connecting, and for an answer.
const LIMIT: Duration = Duration::from_secs(1);

/// What a Sentinel publishes when the master changes. The first is published by the one that leads the failover, as soon
/// as the new master is one; the second by all, in the end.
const EVENTS: [&str; 2] = ["+promoted-slave", "+switch-master"];

/// What a Sentinel knows of a server or of another Sentinel, field by field.
type Fields = HashMap<String, String>;

/// A Sentinel's answer: the master's address, all about the master, the other Sentinels.
type Answer = (Option<(String, u16)>, Fields, Vec<Fields>);

/// One Sentinel, and what to ask it.
pub struct Seat {
    /// Where it listens.
    pub address: Address,
    /// The master's name there.
    pub service: String,
    /// Where servers and Sentinels are, as seen from here.
    pub address_map: AddressMap,
    /// Changes when it should be asked at once.
    pub doubts: watch::Receiver<u64>,
}

// === impl Seat ===

impl Seat {
    /// Asks for ever; tells what it says, and once per attempt why it does not answer.
    pub async fn watch(
        mut self,
        login: impl Fn(Address) -> Option<Target>,
        tell: impl Fn(&Address, Result<Word, Unanswered>),
    ) {
        let address = self.address.clone();
        let mut pause = PAUSE_MIN;
        loop {
            let mut answered = false;
            let told = |word| {
                answered = true;
                tell(&address, Ok(word));
            };
            let error = match login(address.clone()) {
                Some(target) => self.converse(&target, told).await,
                None => Unanswered::NoTarget,
            };
            tell(&address, Err(error));
            pause = if answered { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
            sleep(pause).await;
        }
    }

    /// Asks on one connection until it fails.
    async fn converse(&mut self, target: &Target, told: impl FnMut(Word)) -> Unanswered {
        match self.try_converse(target, told).await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn try_converse(
        &mut self,
        target: &Target,
        mut told: impl FnMut(Word),
    ) -> Result<std::convert::Infallible, Unanswered> {
        let (events, mut heard) = mpsc::unbounded_channel();
        let mut connection = target.listening(events, LIMIT).await?;
        // Older ones lack it: then who is who is known by the address alone.
        let id = redis::cmd("SENTINEL").arg("MYID").query_async::<String>(&mut connection).await.unwrap_or_default();
        connection.subscribe(&EVENTS[..]).await?;
        loop {
            self.doubts.mark_unchanged();
            let mut all = redis::pipe();
            all.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(&self.service);
            all.cmd("SENTINEL").arg("MASTER").arg(&self.service);
            all.cmd("SENTINEL").arg("SENTINELS").arg(&self.service);
            let answer: Answer = all.query_async(&mut connection).await?;
            told(self.word(&id, answer));
            tokio::select! {
                () = sleep(PERIOD) => {}
                _ = self.doubts.changed() => {}
                event = heard.recv() => match event {
                    Some(event) if event.kind != redis::PushKind::Disconnection => while heard.try_recv().is_ok() {},
                    _ => return Err(Unanswered::Redis(std::io::Error::from(std::io::ErrorKind::ConnectionReset).into())),
                }
            }
        }
    }

    fn word(&self, id: &str, (master, fields, others): Answer) -> Word {
        let other = |fields: &Fields| {
            let port = fields.get("port")?.parse().ok()?;
            Some((self.place(fields.get("ip")?, port)?, fields.get("runid").cloned().unwrap_or_default()))
        };
        Word {
            master: master.and_then(|(host, port)| self.place(&host, port)),
            epoch: fields.get("config-epoch").and_then(|epoch| epoch.parse().ok()).unwrap_or_default(),
            id: id.to_owned(),
            others: others.iter().filter_map(other).collect(),
        }
    }

    /// Where that is, as seen from here; `None` if it is nowhere: a Sentinel that has yet to learn an address tells `:0`.
    fn place(&self, host: &str, port: u16) -> Option<Address> {
        let known = !host.is_empty() && port != 0;
        known.then(|| {
            let (host, port) = self.address_map.apply(host, port);
            Address::Tcp { host, port }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seat(map: &[&str]) -> Seat {
        let address = Address::Tcp { host: "s".into(), port: 26379 };
        let address_map = AddressMap::parse(map).unwrap();
        Seat { address, service: "mymaster".into(), address_map, doubts: watch::channel(0).1 }
    }

    fn fields(pairs: &[(&str, &str)]) -> Fields {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn an_answer_is_told_as_seen_from_here() {
        let others = vec![
            fields(&[("ip", "10.0.0.9"), ("port", "26379"), ("runid", "b")]),
            fields(&[("ip", ""), ("port", "0"), ("runid", "")]),
        ];
        let answer = (Some(("10.0.0.1".into(), 6379)), fields(&[("config-epoch", "7")]), others);
        let word = seat(&["10.0.0.1:6379=127.0.0.1:7001", "10.0.0.9=localhost"]).word("a", answer);
        let at = |host: &str, port| Address::Tcp { host: host.into(), port };
        let wanted = Word {
            master: Some(at("127.0.0.1", 7001)),
            epoch: 7,
            id: "a".into(),
            others: vec![(at("localhost", 26379), "b".into())],
        };
        assert_eq!(word, wanted);
    }

    #[test]
    fn no_address_is_no_master() {
        for master in [None, Some((String::new(), 0)), Some(("10.0.0.1".into(), 0)), Some((String::new(), 6379))] {
            assert_eq!(seat(&[]).word("", (master, Fields::new(), Vec::new())), Word::default());
        }
    }
}
