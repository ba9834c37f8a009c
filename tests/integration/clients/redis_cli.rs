//! redis-cli: what it prints through sidecache is what it prints without.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use super::Pair;
use crate::support::{Kind, Server, Sidecar};

/// One command a line, as typed; each reads what those before it left.
const SESSION: &str = include_str!("session.redis");

/// Both ways to the same state: a sidecache before one server, and another server alone.
struct Twins {
    pair: Pair,
    alone: Server,
}

impl Twins {
    #[track_caller]
    fn start(kind: Kind, threads: usize) -> Twins {
        Twins { pair: Pair::start(kind, threads), alone: Server::with(kind, &[]) }
    }

    /// Runs the same through sidecache and without; fails if they print different things, else returns it.
    #[track_caller]
    fn same(&self, args: &[&str], input: &str) -> String {
        let through = redis_cli(self.pair.sidecar.addr().port(), args, input);
        let direct = redis_cli(self.alone.port(), args, input);
        let lines = through.lines().zip(direct.lines());
        let difference = lines.enumerate().find(|(_, (through, direct))| through != direct);
        assert!(through == direct, "redis-cli {args:?} prints other lines: {difference:?}");
        through
    }
}

fn command(port: u16, args: &[&str]) -> Command {
    let mut command = Command::new("redis-cli");
    command.args(["-p", &port.to_string()]).args(args).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What it prints; binary values are shown as they can be.
#[track_caller]
fn redis_cli(port: u16, args: &[&str], input: &str) -> String {
    let mut client = command(port, args).spawn().unwrap_or_else(|e| panic!("redis-cli: {e}; run `make deps`"));
    let mut stdin = client.stdin.take().unwrap();
    let input = input.to_string();
    // It may print more than a pipe holds before it has read all.
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let ended = client.wait_with_output().unwrap();
    let _ = writer.join();
    let printed = format!("{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    printed.split_inclusive('\n').filter(|line| !is_duration(line)).collect()
}

/// Behind a reply that took half a second redis-cli says how long, as `(0.70s)`: that is the machine's affair.
fn is_duration(line: &str) -> bool {
    let seconds = line.trim_end().strip_prefix('(').and_then(|line| line.strip_suffix("s)"));
    seconds.is_some_and(|seconds| seconds.parse::<f64>().is_ok())
}

/// The first lines of a program that goes on until it is ended.
#[track_caller]
fn first_lines(mut command: Command, lines: usize, provoke: impl Fn(&str)) -> Vec<String> {
    let mut client = command.spawn().unwrap_or_else(|e| panic!("{e}; run `make deps`"));
    let mut seen = Vec::new();
    for line in BufReader::new(client.stdout.take().unwrap()).lines().map_while(Result::ok).take(lines) {
        provoke(&line);
        seen.push(line);
    }
    let _ = client.kill();
    let _ = client.wait();
    seen
}

#[test]
fn redis_cli_prints_the_same_session() {
    for (kind, threads) in super::everywhere() {
        let twins = Twins::start(kind, threads);
        for form in [&[][..], &["-3"], &["--no-raw"], &["-3", "--no-raw"], &["--csv"]] {
            for _ in ["cold", "warm"] {
                let printed = twins.same(form, SESSION);
                assert!(printed.lines().count() > 50, "{printed}");
            }
        }
        assert!(twins.pair.sidecar.metric("sidecache_commands_total{class=\"read\",outcome=\"hit\"}") > 0.0);
    }
}

#[test]
fn redis_cli_inserts_and_looks_through_ten_thousand_keys() {
    for (kind, threads) in super::everywhere() {
        let twins = Twins::start(kind, threads);
        let commands: String = (0..10_000).map(|i| format!("SET mass:{i} {i}\r\n")).collect();
        let printed = twins.same(&["--pipe"], &commands);
        assert!(printed.contains("errors: 0, replies: 10000"), "{printed}");
        twins.same(&["DBSIZE"], "");
        let port = twins.pair.sidecar.addr().port();
        let mut keys: Vec<String> =
            redis_cli(port, &["--scan", "--pattern", "mass:*"], "").lines().map(Into::into).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 10_000);
        let printed = redis_cli(port, &["--bigkeys"], "");
        assert!(printed.contains("Sampled 10000 keys in the keyspace!"), "{printed}");
        assert!(printed.contains("10000 strings with 38890 bytes"), "{printed}");
    }
}

#[test]
fn redis_cli_repeats_and_reports() {
    for (kind, threads) in super::everywhere() {
        let twins = Twins::start(kind, threads);
        assert_eq!(twins.same(&["-r", "3", "INCR", "r"], ""), "1\n2\n3\n");
        assert_eq!(twins.same(&["-r", "2", "-i", "0.01", "PING"], ""), "PONG\nPONG\n");
        assert_eq!(twins.same(&["-n", "1", "SET", "k", "in database one"], ""), "OK\n");
        assert_eq!(twins.same(&["-x", "SET", "k"], "from standard input"), "OK\n");
        assert_eq!(
            twins.same(&["--eval", "/dev/stdin", "k"], "return redis.call('GET', KEYS[1])"),
            "from standard input\n"
        );
        assert_eq!(twins.same(&["-e", "LPOP", "k"], ""), twins.same(&["-e", "LPOP", "k"], ""));

        let port = twins.pair.sidecar.addr().port();
        let fields = |text: &str| -> Vec<String> {
            text.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.to_string()).collect()
        };
        let info = redis_cli(port, &["INFO"], "");
        let direct = redis_cli(twins.pair.server.port(), &["INFO"], "");
        let ours = fields(&info);
        let missing: Vec<String> = fields(&direct).into_iter().filter(|name| !ours.contains(name)).collect();
        // Which commands have been called, and which errors seen, differs by who asks when.
        let missing: Vec<_> =
            missing.iter().filter(|name| !name.starts_with("cmdstat_") && !name.starts_with("errorstat_")).collect();
        assert!(missing.is_empty(), "INFO lacks {missing:?}");
    }
}

#[test]
fn redis_cli_watches_with_stat_and_monitor() {
    for (kind, threads) in super::everywhere() {
        let Pair { server, sidecar } = Pair::start(kind, threads);
        let port = sidecar.addr().port().to_string();
        let mut stat = Command::new("stdbuf");
        stat.args(["-oL", "redis-cli", "-p", &port, "--stat", "-i", "0.05"]).stdout(Stdio::piped());
        let lines = first_lines(stat, 3, |_| ());
        assert!(lines.get(1).is_some_and(|line| line.starts_with("keys")), "{lines:?}");
        assert!(lines.get(2).is_some_and(|line| line.starts_with('0')), "{lines:?}");

        let lines = first_lines(command(sidecar.addr().port(), &["MONITOR"]), 200, |_| {
            // Polls of sidecache's own may come between.
            server.outside("SET seen-by-monitor 1");
        });
        assert_eq!(lines.first().map(String::as_str), Some("OK"));
        assert!(lines.iter().any(|line| line.contains("\"SET\" \"seen-by-monitor\" \"1\"")), "{lines:?}");
    }
}

#[test]
fn redis_cli_logs_in_with_a_users_password() {
    for (kind, threads) in super::everywhere() {
        let server = Server::with(kind, &["--requirepass", "sesame"]);
        assert_eq!(server.conn().call(&["ACL", "SETUSER", "ann", "on", ">secret", "~a*", "+@all"]), b"+OK\r\n");
        let sidecar = Sidecar::start(&server, &format!("threads = {threads}"));
        sidecar.allow_log("NOAUTH");
        let logins: [&[&str]; 5] = [
            &[],
            &["-a", "sesame"],
            &["-3", "-a", "sesame"],
            &["--user", "ann", "--pass", "secret"],
            &["--user", "ann", "--pass", "wrong"],
        ];
        let input = "ACL WHOAMI\nSET a 1\nGET a\nGET a\nGET a\nGET b\nMULTI\nGET a\nGET b\nPING\nEXEC\n";
        for login in logins {
            let through = redis_cli(sidecar.addr().port(), login, input);
            assert_eq!(through, redis_cli(server.port(), login, input), "{login:?}");
        }
    }
}
