//! Connections of the control plane: what is asked in the background, never on a client's way.
//!
//! *Invariant:* a password is read anew at each connect and never shown. Not here: what is asked.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use bb8_redis::bb8::CustomizeConnection;
use bb8_redis::redis::aio::MultiplexedConnection;
use bb8_redis::redis::{
    self, AsyncConnectionConfig, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, ProtocolVersion,
    PushInfo, RedisConnectionInfo,
};
use bb8_redis::redis::{RedisError, RedisResult};
use bb8_redis::{RedisConnectionManager, bb8};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::timeout;

use super::CLIENT_NAME;
use crate::net::Address;

/// Time for connecting.
const LIMIT: Duration = Duration::from_secs(3);

/// A pool of one connection.
pub type Pool = bb8::Pool<RedisConnectionManager>;

/// Whom to ask, and as whom.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    /// Where upstream is.
    pub address: Address,
    /// The user; empty: the default user.
    pub user: String,
    /// Its password; empty: none.
    pub password: String,
    /// A file that holds the password instead; read at each connect.
    pub password_file: Option<PathBuf>,
}

/// Names connections, so that operators see in CLIENT LIST whose they are.
#[derive(Debug)]
struct Named;

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// There is nobody to ask.
    #[error("upstream's address is not known")]
    NoTarget,
    /// The password is in a file that cannot be read.
    #[error("cannot read the password file: {0}")]
    PasswordFile(#[from] std::io::Error),
    /// It took too long.
    #[error("no connection within the limit")]
    NoConnection,
    /// Upstream is there and gives us no INFO, now or later.
    #[error("upstream gives no INFO: {0}")]
    Refused(redis::RedisError),
    /// The server's own error, or the network's.
    #[error("{0}")]
    Redis(#[from] redis::RedisError),
}

// === impl Target ===

impl Target {
    /// A pool of one connection that stays without being tended. It is opened here, since bb8 tells
    /// a connection's error only when it builds: later it would wait for the whole time-out.
    pub async fn pool(&self) -> Result<Pool, Unanswered> {
        let manager = RedisConnectionManager::new(self.connection_info()?)?;
        let builder = Pool::builder().max_size(1).min_idle(1).max_lifetime(None).idle_timeout(None);
        let builder = builder.retry_connection(false).connection_timeout(LIMIT);
        Ok(builder.connection_customizer(Box::new(Named)).build(manager).await?)
    }

    /// A connection of its own, not tried before it is used: who may not even PING can still be told so by INFO itself.
    /// How long it waits for replies is its user's affair.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub async fn connect(&self) -> Result<MultiplexedConnection, Unanswered> {
        let client = redis::Client::open(self.connection_info()?)?;
        let unlimited = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let connecting = client.get_multiplexed_async_connection_with_config(&unlimited);
        let mut connection = timeout(LIMIT, connecting).await.map_err(|_| Unanswered::NoConnection)??;
        // Whatever is wrong with it, INFO will say.
        let _ = timeout(LIMIT, Named.on_acquire(&mut connection)).await;
        Ok(connection)
    }

    /// A connection of which the pushes are heard too (RESP3), with a time limit for connecting and for each answer.
    pub async fn listening(
        &self,
        pushes: UnboundedSender<PushInfo>,
        limit: Duration,
    ) -> Result<MultiplexedConnection, Unanswered> {
        let info = self.connection_info()?;
        let login = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let client = redis::Client::open(info.set_redis_settings(login))?;
        let limits = AsyncConnectionConfig::new()
            .set_push_sender(pushes)
            .set_connection_timeout(Some(limit))
            .set_response_timeout(Some(limit));
        Ok(client.get_multiplexed_async_connection_with_config(&limits).await?)
    }

    fn connection_info(&self) -> Result<ConnectionInfo, Unanswered> {
        let password = match &self.password_file {
            Some(path) => std::fs::read_to_string(path)?.trim_end_matches(['\r', '\n']).to_owned(),
            None => self.password.clone(),
        };
        let mut login = RedisConnectionInfo::default().set_lib_name("sidecache", env!("CARGO_PKG_VERSION"));
        if !self.user.is_empty() {
            login = login.set_username(&self.user);
        }
        if !password.is_empty() {
            login = login.set_password(password);
        }
        let address = match &self.address {
            Address::Tcp { host, port } => ConnectionAddr::Tcp(host.clone(), *port),
            Address::Unix(path) => ConnectionAddr::Unix(path.clone()),
        };
        Ok(address.into_connection_info()?.set_redis_settings(login))
    }
}

// === impl Named ===

impl bb8::CustomizeConnection<MultiplexedConnection, RedisError> for Named {
    fn on_acquire<'a>(
        &'a self,
        connection: &'a mut MultiplexedConnection,
    ) -> Pin<Box<dyn Future<Output = RedisResult<()>> + Send + 'a>> {
        Box::pin(async {
            let mut command = redis::cmd("CLIENT");
            match command.arg("SETNAME").arg(CLIENT_NAME).exec_async(connection).await {
                // Who may not say who he is may ask all the same.
                Err(error) if !error.is_unrecoverable_error() => Ok(()),
                result => result,
            }
        })
    }
}

// === impl Unanswered ===

impl Unanswered {
    /// What stands behind an error in place of INFO's own reply. An upstream that denies INFO, does not know it, or wants a
    /// password that we were not given, will say the same next time; one that loads its data or runs a script will not.
    pub fn of_answer(error: redis::RedisError) -> Unanswered {
        if matches!(error.code(), Some("NOPERM" | "NOAUTH" | "ERR")) {
            Unanswered::Refused(error)
        } else {
            Unanswered::Redis(error)
        }
    }

    /// Whether upstream is there and gives us no INFO, now or later.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Unanswered::Refused(_))
    }

    /// Whether upstream is there and denies it to our user.
    pub fn is_denial(&self) -> bool {
        matches!(self, Unanswered::Redis(error) | Unanswered::Refused(error) if error.code() == Some("NOPERM"))
    }

    /// Whether it is the server's own word, and not the network's.
    pub fn is_answer(&self) -> bool {
        matches!(self, Unanswered::Redis(error) if error.code().is_some() || error.kind() == ErrorKind::AuthenticationFailed)
    }

    /// Whether somebody is there who does not let our user in, or ask this.
    pub fn denies_us(&self) -> bool {
        let Unanswered::Redis(error) = self else { return false };
        let refusals = ["NOPERM", "NOAUTH", "WRONGPASS"];
        error.kind() == ErrorKind::AuthenticationFailed || error.code().is_some_and(|code| refusals.contains(&code))
    }
}

impl From<bb8::RunError<redis::RedisError>> for Unanswered {
    fn from(error: bb8::RunError<redis::RedisError>) -> Unanswered {
        match error {
            bb8::RunError::User(error) => Unanswered::Redis(error),
            bb8::RunError::TimedOut => Unanswered::NoConnection,
        }
    }
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("address", &self.address).field("user", &self.user).finish_non_exhaustive()
    }
}
