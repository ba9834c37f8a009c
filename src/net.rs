//! Sockets: one stream and one listener over TCP and Unix sockets, and the clock.
//!
//! *Invariant:* a name is resolved anew at each connect, never remembered here; every stream is
//! nonblocking, without Nagle's delay, and notices a peer that has gone silent.
//! Not here: what is said on a connection (`upstream`, `client`), retries, TLS.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream, tcp, unix};

/// Silence before the first keepalive probe; the kernel's own default is two hours.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
/// Pause between keepalive probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Unanswered probes before the connection is given up (with the two above: after 30 s).
const KEEPALIVE_PROBES: u32 = 3;
/// Connections the kernel may hold for us between two accepts (it caps this at net.core.somaxconn).
const BACKLOG: i32 = 1024;

/// Where a server listens. Holds no secret, so it may be shown.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A host name or IP address (IPv6 without brackets) and a port.
    Tcp {
        /// The name, resolved at each connect.
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix socket's path.
    Unix(PathBuf),
}

/// How to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectOptions {
    /// Time for name resolution and connecting together, over all addresses of the name.
    pub timeout: Duration,
    /// Longest time that sent bytes may stay unacknowledged (TCP_USER_TIMEOUT); zero: the kernel's default.
    pub user_timeout: Duration,
}

/// A connected stream.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
}

/// The reading half of a [`Stream`].
#[derive(Debug)]
pub enum ReadHalf {
    /// Over TCP.
    Tcp(tcp::OwnedReadHalf),
    /// Over a Unix socket.
    Unix(unix::OwnedReadHalf),
}

/// The writing half of a [`Stream`]; dropping it tells the peer that no more will come.
#[derive(Debug)]
pub enum WriteHalf {
    /// Over TCP.
    Tcp(tcp::OwnedWriteHalf),
    /// Over a Unix socket.
    Unix(unix::OwnedWriteHalf),
}

/// A socket just accepted, not yet bound to a runtime: it may be sent to another thread.
#[derive(Debug)]
pub enum Accepted {
    /// Over TCP, with the peer's address.
    Tcp(std::net::TcpStream, SocketAddr),
    /// Over a Unix socket.
    Unix(std::os::unix::net::UnixStream),
}

/// A bound listener.
#[derive(Debug)]
pub enum Listener {
    /// On TCP.
    Tcp(TcpListener),
    /// On a Unix socket; the file is removed when this is dropped.
    Unix(UnixListener, SocketFile),
}

/// A Unix socket's file, removed on drop.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

// === impl Address ===

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp { host, port } => write!(f, "{host}:{port}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Address {
    /// An address as in `listen`: `host:port`, `[v6]:port` or `unix:/path`. `None` if it is none of these.
    pub fn parse(text: &str) -> Option<Address> {
        if let Some(path) = text.strip_prefix("unix:") {
            return (!path.is_empty()).then(|| Address::Unix(PathBuf::from(path)));
        }
        let (host, port) = text.rsplit_once(':')?;
        let host = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']')?,
            None if host.contains(':') => return None,
            None => host,
        };
        (!host.is_empty()).then_some(())?;
        Some(Address::Tcp { host: host.to_owned(), port: port.parse().ok()? })
    }
}

// === impl Stream ===

impl Stream {
    /// Connects, resolving the name anew and trying its addresses in turn.
    ///
    /// # Errors
    /// The last address's error; `TimedOut` when `options.timeout` has passed.
    pub async fn connect(address: &Address, options: ConnectOptions) -> io::Result<Stream> {
        match tokio::time::timeout(options.timeout, connect_any(address)).await {
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no connection within the time allowed")),
            Ok(Err(error)) => Err(error),
            Ok(Ok(stream)) => {
                stream.configure(options.user_timeout)?;
                Ok(stream)
            }
        }
    }

    /// A stream over an accepted TCP socket, bound to the current runtime.
    ///
    /// # Errors
    /// If the socket cannot be configured or registered.
    pub fn from_std_tcp(socket: std::net::TcpStream) -> io::Result<Stream> {
        socket.set_nonblocking(true)?;
        let stream = Stream::Tcp(TcpStream::from_std(socket)?);
        stream.configure(Duration::ZERO)?;
        Ok(stream)
    }

    /// A stream over an accepted Unix socket, bound to the current runtime.
    ///
    /// # Errors
    /// If the socket cannot be configured or registered.
    pub fn from_std_unix(socket: std::os::unix::net::UnixStream) -> io::Result<Stream> {
        socket.set_nonblocking(true)?;
        Ok(Stream::Unix(UnixStream::from_std(socket)?))
    }

    /// The two halves, to be used by two tasks.
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Stream::Tcp(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Tcp(read), WriteHalf::Tcp(write))
            }
            Stream::Unix(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Unix(read), WriteHalf::Unix(write))
            }
        }
    }

    /// Makes the coming close a reset: what the kernel still holds is thrown away, so that no late
    /// write reaches the peer. A failure is ignored: the close comes all the same.
    pub fn abort(&self) {
        if let Stream::Tcp(stream) = self {
            reset_on_close(stream);
        }
    }

    /// Whether the peer has said nothing that is not yet read, and has not closed. Asks the kernel,
    /// since the runtime may not have heard of the end yet; takes nothing out of the stream.
    pub fn is_silent(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        let peeked = match self {
            Stream::Tcp(stream) => SockRef::from(stream).peek(&mut byte),
            Stream::Unix(stream) => SockRef::from(stream).peek(&mut byte),
        };
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    fn configure(&self, user_timeout: Duration) -> io::Result<()> {
        let Stream::Tcp(stream) = self else { return Ok(()) };
        stream.set_nodelay(true)?;
        let socket = SockRef::from(stream);
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_PROBES);
        socket.set_tcp_keepalive(&keepalive)?;
        if !user_timeout.is_zero() {
            socket.set_tcp_user_timeout(Some(user_timeout))?;
        }
        Ok(())
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

// === impl ReadHalf ===

impl AsyncRead for ReadHalf {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ReadHalf::Tcp(half) => Pin::new(half).poll_read(cx, buf),
            ReadHalf::Unix(half) => Pin::new(half).poll_read(cx, buf),
        }
    }
}

// === impl WriteHalf ===

impl WriteHalf {
    /// Writes what the kernel takes without waiting; may be fewer bytes than given.
    ///
    /// # Errors
    /// `WouldBlock` when it takes none; [`WriteHalf::poll_write_ready`] then tells when to try again.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            WriteHalf::Tcp(half) => half.try_write(bytes),
            WriteHalf::Unix(half) => half.try_write(bytes),
        }
    }

    /// As [`WriteHalf::try_write`], of several pieces in one system call.
    ///
    /// # Errors
    /// As [`WriteHalf::try_write`].
    pub fn try_write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            WriteHalf::Tcp(half) => half.try_write_vectored(pieces),
            WriteHalf::Unix(half) => half.try_write_vectored(pieces),
        }
    }

    /// Whether a write may succeed; wakes the task when it may. Only the last task that asked is woken.
    ///
    /// # Errors
    /// When the runtime is shutting down.
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            WriteHalf::Tcp(half) => half.as_ref().poll_write_ready(cx),
            WriteHalf::Unix(half) => half.as_ref().poll_write_ready(cx),
        }
    }

    /// Ends both directions at once, behind what is written already, although the socket stays open for now.
    pub fn shut_down(&self) {
        // A peer that has gone is as good.
        let _ = match self {
            WriteHalf::Tcp(half) => SockRef::from(half.as_ref()).shutdown(std::net::Shutdown::Both),
            WriteHalf::Unix(half) => SockRef::from(half.as_ref()).shutdown(std::net::Shutdown::Both),
        };
    }

    /// As [`Stream::abort`]; the close comes when both halves are gone, so the reading half must be
    /// dropped with this one.
    pub fn abort(&self) {
        if let WriteHalf::Tcp(half) = self {
            reset_on_close(half.as_ref());
        }
    }
}

// === impl Accepted ===

impl Accepted {
    /// The stream, bound to the current runtime.
    ///
    /// # Errors
    /// If the socket cannot be configured or registered.
    pub fn into_stream(self) -> io::Result<Stream> {
        match self {
            Accepted::Tcp(socket, _) => Stream::from_std_tcp(socket),
            Accepted::Unix(socket) => Stream::from_std_unix(socket),
        }
    }
}

// === impl Listener ===

impl Listener {
    /// Binds, resolving a host name once; must be called in a runtime. Port 0 takes a free port.
    ///
    /// # Errors
    /// `AddrInUse` when somebody listens there already; anything that the kernel says.
    pub fn bind(address: &Address) -> io::Result<Listener> {
        match address {
            Address::Tcp { host, port } => {
                let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
                for at in (host.as_str(), *port).to_socket_addrs()? {
                    match listen_tcp(at) {
                        Ok(listener) => return Ok(Listener::Tcp(TcpListener::from_std(listener)?)),
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
            Address::Unix(path) => {
                remove_stale(path)?;
                let listener = UnixListener::bind(path)?;
                Ok(Listener::Unix(listener, SocketFile(path.clone())))
            }
        }
    }

    /// Where it listens: the port is the real one when port 0 was asked for.
    ///
    /// # Errors
    /// Only if the kernel does not say.
    pub fn local_address(&self) -> io::Result<Address> {
        match self {
            Listener::Tcp(listener) => {
                let at = listener.local_addr()?;
                Ok(Address::Tcp { host: at.ip().to_string(), port: at.port() })
            }
            Listener::Unix(_, file) => Ok(Address::Unix(file.0.clone())),
        }
    }

    /// The next connection. Cancelling loses none.
    ///
    /// # Errors
    /// As accept(2) has them: with EMFILE and its like the caller must pause before the next call,
    /// or it spins.
    pub async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok(Accepted::Tcp(stream.into_std()?, peer))
            }
            Listener::Unix(listener, _) => Ok(Accepted::Unix(listener.accept().await?.0.into_std()?)),
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may be gone already, or its folder be read-only by now; neither is worth a word at exit.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Nanoseconds on CLOCK_BOOTTIME: the only clock for leases and deadlines.
///
/// It counts the time that the machine was suspended. `Instant` (CLOCK_MONOTONIC) does not: after a
/// resume a lease measured by it would look fresh although upstream had hours to change.
pub fn boottime() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
}

async fn connect_any(address: &Address) -> io::Result<Stream> {
    let (host, port) = match address {
        Address::Unix(path) => return Ok(Stream::Unix(UnixStream::connect(path).await?)),
        Address::Tcp { host, port } => (host.as_str(), *port),
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for at in tokio::net::lookup_host((host, port)).await? {
        match TcpStream::connect(at).await {
            Ok(stream) => return Ok(Stream::Tcp(stream)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn reset_on_close(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

fn listen_tcp(at: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(at), socket2::Type::STREAM, None)?;
    // A restart must not wait for the old process's connections to leave TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Removes the socket file of a process that has ended; a living one answers and keeps it.
fn remove_stale(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    let found = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    // Never a regular file that somebody mistyped: only a refused connection proves a dead socket.
    if !found.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the path exists and is not a socket"));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens on this socket")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
