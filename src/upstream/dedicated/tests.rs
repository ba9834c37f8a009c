//! The pools against an upstream of our own, which counts and misbehaves on demand.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Poll;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::net::Listener;
use crate::upstream::identity::Identity;

const PATIENCE: Duration = Duration::from_secs(60);

const HELLO: &str = "*2\r\n$5\r\nproto\r\n:3\r\n+OK\r\n:1\r\n";

/// An upstream that shakes hands and then echoes.
struct Upstream {
    address: Address,
    opened: Rc<Cell<usize>>,
    /// What it says to a newcomer.
    greeting: Rc<RefCell<String>>,
    /// Ends all connections when it is set to true.
    cut: watch::Sender<bool>,
}

impl Upstream {
    fn start() -> Upstream {
        let listener = Listener::bind(&Address::Tcp { host: "127.0.0.1".into(), port: 0 }).unwrap();
        let upstream = Upstream {
            address: listener.local_address().unwrap(),
            opened: Rc::default(),
            greeting: Rc::new(RefCell::new(HELLO.into())),
            cut: watch::Sender::new(false),
        };
        let (opened, greeting, cut) = (upstream.opened.clone(), upstream.greeting.clone(), upstream.cut.clone());
        tokio::task::spawn_local(async move {
            loop {
                let mut stream = listener.accept().await.unwrap().into_stream().unwrap();
                opened.set(opened.get() + 1);
                let greeting = greeting.borrow().clone();
                let mut cut = cut.subscribe();
                tokio::task::spawn_local(async move {
                    let mut bytes = [0; 4096];
                    let hello = stream.read(&mut bytes).await.unwrap();
                    assert!(bytes[..hello].ends_with(b"$2\r\nID\r\n"));
                    stream.write_all(greeting.as_bytes()).await.unwrap();
                    loop {
                        tokio::select! {
                            _ = cut.changed() => break,
                            read = stream.read(&mut bytes) => match read {
                                Ok(n) if n > 0 => stream.write_all(&bytes[..n]).await.unwrap(),
                                _ => break,
                            },
                        }
                    }
                });
            }
        });
        upstream
    }

    fn pools(&self, change: impl FnOnce(&mut Config)) -> Dedicated {
        // Patience that no busy machine uses up.
        let mut config = Config { connect_timeout: PATIENCE, ..Config::default() };
        config.pool.wait_timeout = PATIENCE;
        config.waiting_pool.wait_timeout = PATIENCE;
        config.pool.max = 2;
        change(&mut config);
        Dedicated::new(self.address.clone(), false, &Identity::default().into(), &config)
    }
}

fn run(test: impl Future<Output = ()> + 'static) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default()).unwrap();
    runtime.block_on(test);
}

async fn echo(connection: &mut Connection) {
    connection.send(b"+x\r\n", 1);
    connection.flush().await.unwrap();
    assert_eq!(&connection.read_reply().await.unwrap().bytes[..], b"+x\r\n");
}

async fn get(pools: &Dedicated) -> Checkout {
    pools.get(PoolKind::Transactions).await.unwrap()
}

#[test]
fn a_clean_connection_is_used_again_and_an_unclean_one_is_not() {
    run(async {
        let upstream = Upstream::start();
        let pools = upstream.pools(|_| {});
        let mut first = get(&pools).await;
        echo(&mut first).await;
        drop(first);
        echo(&mut *get(&pools).await).await;
        assert_eq!(upstream.opened.get(), 1);

        let mut owing = get(&pools).await;
        owing.send(b"+late\r\n", 1);
        owing.flush().await.unwrap();
        drop(owing);
        echo(&mut *get(&pools).await).await;
        assert_eq!(upstream.opened.get(), 2);

        let mut unsent = get(&pools).await;
        unsent.send(b"+x\r\n", 0);
        drop(unsent);
        let mut tainted = get(&pools).await;
        tainted.taint();
        drop(tainted);
        get(&pools).await;
        assert_eq!(upstream.opened.get(), 4);
        let stats = pools.stats(PoolKind::Transactions);
        assert_eq!((stats.created, stats.closed, stats.idle, stats.in_use), (4, 3, 1, 0));
    });
}

#[test]
fn a_request_cancelled_midway_never_leaves_its_reply_to_the_next_client() {
    run(async {
        let upstream = Upstream::start();
        let pools = Rc::new(upstream.pools(|config| config.pool.max = 1));
        for polls in 0..40 {
            let user = pools.clone();
            let mut request = Box::pin(async move {
                let mut connection = get(&user).await;
                connection.align(2, 1).await.unwrap();
                echo(&mut connection).await;
            });
            for _ in 0..polls {
                let done = std::future::poll_fn(|cx| Poll::Ready(request.as_mut().poll(cx).is_ready())).await;
                if done {
                    break;
                }
                tokio::task::yield_now().await;
            }
            drop(request);
            echo(&mut *get(&pools).await).await;
        }
    });
}

#[test]
fn connections_that_died_or_spoke_while_resting_are_not_handed_out() {
    run(async {
        let upstream = Upstream::start();
        let pools = upstream.pools(|_| {});
        let held = get(&pools).await;
        drop(get(&pools).await);
        drop(held);
        assert_eq!(pools.stats(PoolKind::Transactions).idle, 2);
        upstream.cut.send_modify(|_| {});
        while upstream.cut.receiver_count() > 0 {
            tokio::task::yield_now().await;
        }
        echo(&mut *get(&pools).await).await;
        assert_eq!(upstream.opened.get(), 3);

        let mut noisy = get(&pools).await;
        noisy.send(b"+unasked\r\n", 0);
        noisy.flush().await.unwrap();
        while noisy.is_silent() {
            tokio::task::yield_now().await;
        }
        drop(noisy);
        assert_eq!(pools.stats(PoolKind::Transactions).idle, 1);
        echo(&mut *get(&pools).await).await;
        assert_eq!(upstream.opened.get(), 4);
    });
}

#[test]
fn the_limit_holds_and_the_wait_ends_when_one_comes_back_or_the_time_is_up() {
    run(async {
        let upstream = Upstream::start();
        // Long enough for the two that connect.
        let pools = Rc::new(upstream.pools(|config| config.pool.wait_timeout = Duration::from_secs(4)));
        let (one, two) = (get(&pools).await, get(&pools).await);
        let error = pools.get(PoolKind::Transactions).await.unwrap_err();
        assert!(matches!(error, PoolError::Exhausted { limit: 2, .. }), "{error}");
        // The other pools are not concerned.
        pools.get(PoolKind::Waiting).await.unwrap();
        pools.get(PoolKind::Control).await.unwrap();
        let waiter = pools.clone();
        let waiter = tokio::task::spawn_local(async move { waiter.get(PoolKind::Transactions).await.is_ok() });
        while pools.stats(PoolKind::Transactions).waiting == 0 {
            tokio::task::yield_now().await;
        }
        drop(one);
        assert!(waiter.await.unwrap());
        drop(two);
        let stats = pools.stats(PoolKind::Transactions);
        assert_eq!((stats.waiting, stats.timed_out, stats.idle, stats.created), (0, 1, 2, 2));
    });
}

#[test]
fn an_upstream_that_is_away_fails_at_once_and_says_why() {
    run(async {
        // Bound, so that nobody else gets it, and deaf.
        let deaf = tokio::net::TcpSocket::new_v4().unwrap();
        deaf.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let port = deaf.local_addr().unwrap().port();
        let nobody = Address::Tcp { host: "127.0.0.1".into(), port };
        let mut config = Config::default();
        config.pool.wait_timeout = Duration::from_secs(60);
        let pools = Dedicated::new(nobody, false, &Identity::default().into(), &config);
        let started = Instant::now();
        for _ in 0..3 {
            let errors = tokio::join!(pools.get(PoolKind::Transactions), pools.get(PoolKind::Transactions));
            for error in [errors.0.unwrap_err(), errors.1.unwrap_err()] {
                assert!(matches!(&error, PoolError::Unreachable { .. }));
                assert!(error.to_string().contains("refused"), "{error}");
            }
        }
        assert!(started.elapsed() < Duration::from_secs(10));
    });
}

#[test]
fn a_refusal_comes_through_in_upstreams_words_and_is_not_remembered() {
    run(async {
        let upstream = Upstream::start();
        let pools = upstream.pools(|config| config.pool.wait_timeout = Duration::from_secs(60));
        upstream.greeting.replace("-NOAUTH HELLO must be called …\r\n+OK\r\n:1\r\n".into());
        let error = pools.get(PoolKind::Control).await.unwrap_err();
        assert!(matches!(error, PoolError::Refused(line) if line.starts_with(b"-NOAUTH HELLO")));
        upstream.greeting.replace(format!("{HELLO}+more\r\n"));
        assert!(matches!(pools.get(PoolKind::Control).await.unwrap_err(), PoolError::Unreachable { .. }));
        upstream.greeting.replace(HELLO.into());
        pools.get(PoolKind::Control).await.unwrap();
    });
}

#[test]
fn an_upstream_that_accepts_and_says_nothing_is_unreachable_within_the_connect_timeout() {
    run(async {
        let upstream = Upstream::start();
        upstream.greeting.replace(String::new());
        let pools = upstream.pools(|config| {
            config.connect_timeout = Duration::from_millis(50);
            config.pool.wait_timeout = Duration::from_secs(60);
        });
        let error = pools.get(PoolKind::Transactions).await.unwrap_err();
        assert!(matches!(error, PoolError::Unreachable { cause, .. } if matches!(*cause, HandshakeError::Timeout)));
        // Slower than the wait: there was room, so it is not called exhausted.
        let pools = upstream.pools(|config| config.pool.wait_timeout = Duration::from_millis(50));
        let error = pools.get(PoolKind::Transactions).await.unwrap_err();
        assert!(matches!(error, PoolError::Unreachable { .. }), "{error}");
    });
}

#[test]
fn a_connection_rests_as_its_last_client_left_it() {
    run(async {
        let upstream = Upstream::start();
        let pools = upstream.pools(|_| {});
        let mut connection = get(&pools).await;
        // The echo of SELECT is an array and no error, so it is taken for a yes.
        connection.align(3, 5).await.unwrap();
        drop(connection);
        assert_eq!((get(&pools).await.db(), upstream.opened.get()), (5, 1));
    });
}
