//! Every failure that a client can see from us: its RESP text and its metric label.
//!
//! Each text starts with a code word that clients already know where there is one, else with
//! `ERR sidecache:`; it says which upstream and what to do. What upstream itself answers is passed on in
//! its own bytes and is not here.

use crate::telemetry::labels::ErrorKind;

/// A failure that a client can see.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Bytes that are not RESP; the text is Redis's own. The connection is closed.
    #[error("ERR {0}")]
    Protocol(String),
    /// `require_auth`, and the client has not authenticated.
    #[error("NOAUTH Authentication required.")]
    NoAuth,
    /// The same, to EXEC: Redis's own text.
    #[error("EXECABORT Transaction discarded because of: NOAUTH Authentication required.")]
    ExecNoAuth,
    /// HELLO without AUTH where authentication is required; Redis's own text, with what later versions have put in.
    #[error(
        "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO {0}AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time"
    )]
    HelloNoAuth(&'static str),
    /// A command refused by policy.
    #[error("NOPERM sidecache: '{name}' is refused: {reason}; to allow it, {remedy}")]
    Refused {
        /// The command.
        name: String,
        /// Why.
        reason: &'static str,
        /// What in the configuration would allow it.
        remedy: &'static str,
    },
    /// No connection to upstream.
    #[error("ERR sidecache: upstream {upstream} is unreachable: {cause}; the command was not executed")]
    Unreachable {
        /// Its address.
        upstream: String,
        /// What happened at the last attempt.
        cause: String,
    },
    /// The connection was lost while the reply was owed.
    #[error(
        "ERR sidecache: the connection to upstream {upstream} was lost: {cause}; the command may have been executed"
    )]
    Lost {
        /// Its address.
        upstream: String,
        /// What happened.
        cause: String,
    },
    /// No reply in time.
    #[error(
        "ERR sidecache: upstream {upstream} has not answered within command_timeout; the command may have been executed"
    )]
    Timeout {
        /// Its address.
        upstream: String,
    },
    /// Never sent: no connection in time.
    #[error("ERR sidecache: no connection to upstream {upstream} in time: {cause}; the command was not executed")]
    NotSent {
        /// Its address.
        upstream: String,
        /// What happened at the last attempt.
        cause: String,
    },
    /// The lane's queue or output buffer is full.
    #[error(
        "ERR sidecache: too much is waiting for upstream {upstream} (lane_max_commands, lane_max_bytes); the command was not sent"
    )]
    LaneFull {
        /// Its address.
        upstream: String,
    },
    /// All pooled connections are in use.
    #[error(
        "ERR sidecache: no free connection to upstream {upstream} within wait_timeout (raise upstream.{pool}.max); the command was not sent"
    )]
    PoolExhausted {
        /// Its address.
        upstream: String,
        /// The pool's section in the configuration.
        pool: &'static str,
    },
    /// Too many bytes are held for fences.
    #[error(
        "ERR sidecache: too many replies are held until invalidations are in (held_max_bytes); the command was executed"
    )]
    HeldFull,
    /// Redis's own text.
    #[error("ERR max number of clients reached")]
    MaxClients,
    /// Upstream answered what it must not.
    #[error("ERR sidecache: upstream {upstream} answered what it must not: {cause}")]
    Upstream {
        /// Its address.
        upstream: String,
        /// What was wrong.
        cause: String,
    },
    /// Redis's own text for a wrong number of arguments.
    #[error("ERR wrong number of arguments for '{0}' command")]
    Arity(String),
    /// Redis's own text.
    #[error("ERR syntax error")]
    Syntax,
    /// Redis's own text.
    #[error("ERR Protocol version is not an integer or out of range")]
    ProtocolVersion,
    /// Redis's own text.
    #[error("NOPROTO unsupported protocol version")]
    NoProto,
    /// Redis's own text (CLIENT KILL address).
    #[error("ERR No such client")]
    NoSuchClient,
    /// Redis's own text (CLIENT LIST ID, CLIENT KILL ID).
    #[error("ERR client-id should be greater than 0")]
    ClientId,
    /// Redis's own text (CLIENT LIST TYPE, CLIENT KILL TYPE).
    #[error("ERR Unknown client type '{0}'")]
    ClientType(String),
    /// Redis's own text (CLIENT SETNAME, HELLO SETNAME).
    #[error("ERR Client names cannot contain spaces, newlines or special characters.")]
    ClientName,
    /// Redis's own text (CLIENT SETINFO).
    #[error("ERR {0} cannot contain spaces, newlines or special characters.")]
    ClientInfo(String),
    /// Redis's own text (CLIENT SETINFO).
    #[error("ERR Unrecognized option '{0}'")]
    ClientOption(String),
    /// Redis's own text.
    #[error("ERR Syntax error in HELLO option '{0}'")]
    HelloOption(String),
    /// AUTH, HELLO in a transaction, or what CLIENT answers here, where the session could not follow what they do; or what
    /// would show a client of a cluster the real nodes.
    #[error("ERR sidecache: '{0}' is not possible in a transaction or while keys are watched")]
    CannotFollow(String),
    /// CLIENT TRACKING in front of a cluster.
    #[error(
        "ERR sidecache: '{0}' is not possible in front of a cluster: one of its nodes would tell of its own keys alone"
    )]
    OneNodeAlone(String),
    /// Redis's own text (RESP2's subscribe mode).
    #[error(
        "{word}Can't execute '{0}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context",
        word = if .0 == "exec" { "EXECABORT Transaction discarded because of: " } else { "ERR " }
    )]
    SubscribeMode(String),
    /// A command refused inside a transaction.
    #[error("EXECABORT Transaction discarded because of previous errors.")]
    ExecAbort,
    /// The nodes that a command was sent to have answered in ways that make no one reply.
    #[error("ERR sidecache: the nodes of the cluster have answered in different ways; each has executed its part")]
    NotJoinable,
    /// A node's cursor has no room in the one that clients get.
    #[error("ERR sidecache: the cursor of a node is larger than can be told to a client of the whole cluster")]
    CursorTooLarge,
    /// Replicas alone are to be read from, and none is fit.
    #[error(
        "ERR sidecache: no replica of upstream {0} is fit to be read from (read_from = \"replica\"); the command was not sent"
    )]
    NoReplica(String),
    /// Redis's own text (a cluster).
    #[error("CROSSSLOT Keys in request don't hash to the same slot")]
    CrossSlot,
    /// Redis's own text (CLUSTER REPLICAS).
    #[error("ERR Unknown node {0}")]
    UnknownNode(String),
    /// The process is about to end.
    #[error("ERR sidecache: draining; connect anew")]
    Draining,
}

impl Error {
    /// The metric label.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Protocol(_) => ErrorKind::Protocol,
            Error::NoAuth | Error::ExecNoAuth | Error::HelloNoAuth(_) => ErrorKind::NoAuth,
            Error::Refused { .. } => ErrorKind::Refused,
            Error::Unreachable { .. } | Error::NotSent { .. } | Error::NoReplica(_) => ErrorKind::Unreachable,
            Error::Lost { .. } => ErrorKind::Lost,
            Error::Timeout { .. } => ErrorKind::Timeout,
            Error::LaneFull { .. } | Error::HeldFull => ErrorKind::LaneFull,
            Error::PoolExhausted { .. } => ErrorKind::PoolExhausted,
            Error::MaxClients => ErrorKind::MaxClients,
            Error::Upstream { .. } | Error::NotJoinable | Error::CursorTooLarge => ErrorKind::Upstream,
            Error::Arity(_)
            | Error::Syntax
            | Error::ProtocolVersion
            | Error::NoProto
            | Error::NoSuchClient
            | Error::ClientId
            | Error::ClientType(_)
            | Error::ClientName
            | Error::ClientInfo(_)
            | Error::ClientOption(_)
            | Error::HelloOption(_)
            | Error::SubscribeMode(_)
            | Error::CrossSlot
            | Error::UnknownNode(_)
            | Error::OneNodeAlone(_)
            | Error::CannotFollow(_) => ErrorKind::Usage,
            Error::ExecAbort => ErrorKind::ExecAbort,
            Error::Draining => ErrorKind::Draining,
        }
    }

    /// The reply: one line, whatever the causes contain.
    pub fn reply(&self) -> Vec<u8> {
        let mut reply = vec![b'-'];
        reply.extend(self.to_string().bytes().map(|byte| if byte == b'\r' || byte == b'\n' { b' ' } else { byte }));
        reply.extend_from_slice(b"\r\n");
        reply
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_whatever_its_cause_contains() {
        let error = Error::Lost { upstream: "127.0.0.1:6379".into(), cause: "a\r\n+OK\r\nb".into() };
        let reply = error.reply();
        assert_eq!(reply.iter().filter(|&&byte| byte == b'\n').count(), 1);
        assert!(reply.starts_with(b"-ERR sidecache: the connection to upstream 127.0.0.1:6379 was lost"));
    }
}
