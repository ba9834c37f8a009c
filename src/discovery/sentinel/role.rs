//! Whether a server knows itself to be the master: what a Sentinel says is believed only if it does.

use std::time::Duration;

use bb8_redis::redis;
use bb8_redis::redis::aio::MultiplexedConnection;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::net::Address;
use crate::switch::{Rule, on};
use crate::upstream::control::{Target, Unanswered};

/// Time for connecting and an answer.
const LIMIT: Duration = Duration::from_secs(1);

/// What a server says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It is a master; or it is there and will not say so to our user: then its first words on a lane must do.
    Master,
    /// It is not.
    Replica,
}

/// Asks a server, on a connection of its own.
///
/// # Errors
/// If it does not answer in time.
pub async fn role_of(target: Option<Target>) -> Result<Role, Unanswered> {
    let asked = async {
        match target.ok_or(Unanswered::NoTarget)?.connect().await {
            Ok(mut connection) => ask(&mut connection).await,
            Err(error) => denied(error),
        }
    };
    timeout(LIMIT, asked).await.unwrap_or(Err(Unanswered::NoConnection))
}

/// Asks a server every `period`, and when `doubts` changes, until it says that it is no master. One that is silent or away
/// is another matter: who has commands for it finds out.
pub async fn until_demoted(
    server: &Address,
    login: impl Fn(Address) -> Option<Target>,
    mut doubts: watch::Receiver<u64>,
    period: Duration,
) {
    let mut kept = None;
    loop {
        doubts.mark_unchanged();
        let asked = async {
            let mut connection = match kept.take() {
                Some(connection) => connection,
                None => login(server.clone()).ok_or(Unanswered::NoTarget)?.connect().await?,
            };
            let role = ask(&mut connection).await?;
            kept = Some(connection);
            Ok::<Role, Unanswered>(role)
        };
        if matches!(timeout(LIMIT, asked).await, Ok(Ok(Role::Replica))) && on(Rule::DemotedIsLeft) {
            return;
        }
        tokio::select! {
            () = sleep(period) => {}
            _ = doubts.changed() => {}
        }
    }
}

async fn ask(connection: &mut MultiplexedConnection) -> Result<Role, Unanswered> {
    match redis::cmd("ROLE").query_async::<Vec<redis::Value>>(connection).await {
        Ok(reply) => match reply.first() {
            Some(redis::Value::BulkString(role)) if role == b"master" => Ok(Role::Master),
            _ => Ok(Role::Replica),
        },
        Err(error) => denied(error.into()),
    }
}

/// A server that is there and denies us the answer is believed.
fn denied(error: Unanswered) -> Result<Role, Unanswered> {
    if error.denies_us() { Ok(Role::Master) } else { Err(error) }
}
