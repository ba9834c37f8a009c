//! What the sockets promise, on loopback and in a temporary folder.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

const OPTIONS: ConnectOptions =
    ConnectOptions { timeout: Duration::from_secs(5), user_timeout: Duration::from_secs(3) };

fn any_port() -> Address {
    Address::Tcp { host: "127.0.0.1".into(), port: 0 }
}

fn socket_in(folder: &tempfile::TempDir) -> Address {
    Address::Unix(folder.path().join("s.sock"))
}

async fn a_pair(listener: &Listener) -> (Stream, Stream) {
    let address = listener.local_address().unwrap();
    let (ours, theirs) = tokio::join!(Stream::connect(&address, OPTIONS), listener.accept());
    (ours.unwrap(), theirs.unwrap().into_stream().unwrap())
}

#[test]
fn an_address_reads_back_as_it_is_shown() {
    for text in ["localhost:6379", "127.0.0.1:1", "[::1]:6379", "unix:/run/s.sock"] {
        assert_eq!(Address::parse(text).unwrap().to_string(), text);
    }
    for text in ["", "localhost", ":6379", "::1:6379", "[::1:6379", "host:70000", "host:x", "unix:"] {
        assert_eq!(Address::parse(text), None, "{text}");
    }
}

#[tokio::test]
async fn bytes_go_both_ways_over_tcp_and_unix_sockets() {
    let folder = tempfile::tempdir().unwrap();
    for address in [any_port(), socket_in(&folder)] {
        let listener = Listener::bind(&address).unwrap();
        let (mut ours, theirs) = a_pair(&listener).await;
        let (mut read, write) = theirs.into_split();
        ours.write_all(b"ping").await.unwrap();
        let mut got = [0; 4];
        read.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"ping");
        std::future::poll_fn(|cx| write.poll_write_ready(cx)).await.unwrap();
        assert_eq!(write.try_write_vectored(&[IoSlice::new(b"po"), IoSlice::new(b"ng")]).unwrap(), 4);
        ours.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"pong");
        assert!(ours.is_silent());
        drop((read, write));
        assert_eq!(ours.read(&mut got).await.unwrap(), 0);
        assert!(!ours.is_silent());
    }
}

#[tokio::test]
async fn an_accepted_socket_may_go_to_another_thread() {
    let listener = Listener::bind(&any_port()).unwrap();
    let address = listener.local_address().unwrap();
    let (ours, theirs) = tokio::join!(Stream::connect(&address, OPTIONS), listener.accept());
    let accepted = theirs.unwrap();
    let echo = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut stream = accepted.into_stream().unwrap();
            let byte = stream.read_u8().await.unwrap();
            stream.write_u8(byte).await.unwrap();
        });
    });
    let mut ours = ours.unwrap();
    ours.write_u8(7).await.unwrap();
    assert_eq!(ours.read_u8().await.unwrap(), 7);
    echo.join().unwrap();
}

#[tokio::test]
async fn an_aborted_stream_is_reset_and_not_ended() {
    let listener = Listener::bind(&any_port()).unwrap();
    let (ours, mut theirs) = a_pair(&listener).await;
    ours.abort();
    drop(ours);
    let error = theirs.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);

    let (ours, mut theirs) = a_pair(&listener).await;
    let halves = ours.into_split();
    halves.1.abort();
    drop(halves);
    // The writing half says FIN first, so the end may be read before the reset is seen.
    let mut byte = [0];
    while theirs.write_all(&byte).await.is_ok() {
        let _ = theirs.read(&mut byte).await;
    }
}

#[tokio::test]
async fn the_options_are_set_on_the_socket() {
    let listener = Listener::bind(&any_port()).unwrap();
    let (ours, theirs) = a_pair(&listener).await;
    for stream in [&ours, &theirs] {
        let Stream::Tcp(stream) = stream else { panic!("a TCP stream was asked for") };
        assert!(stream.nodelay().unwrap());
        assert!(SockRef::from(stream).keepalive().unwrap());
    }
    let Stream::Tcp(ours) = ours else { panic!("a TCP stream was asked for") };
    assert_eq!(SockRef::from(&ours).tcp_user_timeout().unwrap(), Some(Duration::from_secs(3)));
}

#[tokio::test]
async fn a_connection_to_nobody_fails_at_once() {
    // Bound, so that nobody else gets it, and deaf.
    let deaf = tokio::net::TcpSocket::new_v4().unwrap();
    deaf.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = Address::Tcp { host: "127.0.0.1".into(), port: deaf.local_addr().unwrap().port() };
    let error = Stream::connect(&address, OPTIONS).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn a_dead_socket_file_is_replaced_and_a_living_one_kept() {
    let folder = tempfile::tempdir().unwrap();
    let address = socket_in(&folder);
    let Address::Unix(path) = address.clone() else { panic!("a path was asked for") };
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let listener = Listener::bind(&address).unwrap();
    assert_eq!(Listener::bind(&address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    drop(listener);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_never_removed() {
    let folder = tempfile::tempdir().unwrap();
    let address = socket_in(&folder);
    let path = folder.path().join("s.sock");
    std::fs::write(&path, "precious").unwrap();
    assert!(Listener::bind(&address).is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn the_clock_goes_forward() {
    let before = boottime();
    assert!(before > 0);
    assert!(boottime() >= before);
}
