//! The clients that run as programs of their own: one row each in [`CLIENTS`], and its program in tests/clients.
//!
//! A program is called as `PROGRAM PORT OUTSIDE [WAY]`: sidecache's port, the server's own, and which of its ways to
//! go (a protocol, mostly). It reads the key `kept` four times with GETRANGE, does what its library can do, prints
//! `OK` and what it is, and exits with 0; or it says what failed and exits with something else. It may be run again
//! on the same server.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::Pair;
use crate::support::{Kind, Server, eventually};

/// One client.
pub struct Client {
    /// As docs/clients.md calls it.
    name: &'static str,
    /// In tests/clients; its ending says what starts it.
    program: &'static str,
    /// The arguments of its runs: each way has a server, a sidecache, and a cold and a warm run.
    ways: &'static [&'static str],
}

/// A row makes a test at each place.
macro_rules! clients {
    ($($row:ident: $name:literal, $program:literal, $ways:expr;)+) => {
        /// All of them.
        const CLIENTS: &[Client] = &[$(Client { name: $name, program: $program, ways: &$ways }),+];

        $(mod $row {
            const CLIENT: super::Client = super::Client { name: $name, program: $program, ways: &$ways };

            #[test]
            fn before_redis() {
                CLIENT.run(super::super::PLACES[0]);
            }

            #[test]
            fn before_valkey_with_four_workers() {
                CLIENT.run(super::super::PLACES[1]);
            }
        })+
    };
}

clients! {
    redis_py_runs_its_session: "redis-py", "redis_py.py", ["", "2"];
    redis_py_with_asyncio_runs_its_session: "redis-py, asyncio", "redis_py_asyncio.py", ["", "2"];
    redis_pys_own_cache_works_on_top_of_ours: "redis-py with its own cache", "redis_py_own_cache.py", [""];
    ioredis_runs_its_session: "ioredis", "ioredis.js", ["", "2"];
    node_redis_runs_its_session: "node-redis", "node-redis.js", ["", "2", "cache"];
    hiredis_runs_its_session: "hiredis", "hiredis.c", [""];
    php_redis_runs_its_session: "php-redis", "php-redis.php", [""];
    ruby_redis_runs_its_session: "ruby-redis", "ruby-redis.rb", [""];
    perls_redis_runs_its_session: "Perl's Redis", "perl-redis.pl", [""];
    lua_redis_runs_its_session: "lua-redis", "lua-redis.lua", [""];
    django_caches_with_django_redis: "django-redis", "django_cache.py", [""];
    celery_does_its_tasks: "Celery", "celery_tasks.py", [""];
}

/// A program, ready to be called; what was made for it goes with it.
pub struct Program {
    /// Without arguments as yet.
    pub command: Command,
    _folder: Option<TempDir>,
}

// === impl Client ===

impl Client {
    #[track_caller]
    fn run(&self, (kind, threads): (Kind, usize)) {
        for way in self.ways {
            self.run_at(kind, threads, way);
        }
    }

    #[track_caller]
    fn run_at(&self, kind: Kind, threads: usize, way: &str) {
        let server = Server::with(kind, &[]);
        server.outside("SET kept kept");
        // A step that fails here expects what Redis does not do.
        if kind == Kind::Redis {
            run(self.program, server.port(), server.port(), way);
        }
        let Pair { server, mut sidecar } = Pair::before(server, threads);
        let (before, filled) = (fetches(&server), Instant::now());
        run(self.program, sidecar.addr().port(), server.port(), way);
        assert!(fetches(&server) > before, "{}: a cold cache has answered", self.name);
        let (before, lines) = (fetches(&server), sidecar.logs().len());
        run(self.program, sidecar.addr().port(), server.port(), way);
        // Of the four reads of `kept`; an audit may be among them. Several workers have a cache each.
        let fetched = fetches(&server) - before;
        let young = filled.elapsed() < YOUNG;
        let hits = sidecar.metric("sidecache_commands_total{class=\"read\",outcome=\"hit\"}");
        assert!(hits > 0.0, "{}: the session was not served from the cache at all", self.name);
        // The last line is in when all are.
        assert!(sidecar.terminate().success());
        eventually("all has been logged", || sidecar.logs().iter().any(|line| line.contains("drained")));
        let warm = young && !sidecar.logs()[lines..].iter().any(|line| ends_warmth(line));
        assert!(threads > 1 || !warm || fetched <= 1, "{} {way}: a warm cache has fetched {fetched} times", self.name);
    }
}

/// Less than what entries live.
const YOUNG: Duration = Duration::from_secs(50);

/// Whether a line says that what is cached may have been dropped, or not been served for a while: where a program takes
/// seconds to start, or upstream to answer a poll.
fn ends_warmth(line: &str) -> bool {
    ["background poll failed", "background polls rest"].iter().any(|text| line.contains(text))
}

/// How often the server has been asked for `kept`.
#[track_caller]
fn fetches(server: &Server) -> u64 {
    let info = server.outside("INFO commandstats").text();
    let Some((_, rest)) = info.split_once("cmdstat_getrange:calls=") else { return 0 };
    rest.split(',').next().unwrap().parse().unwrap()
}

/// A file of the repository.
pub fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A program in tests/clients, and what starts it.
#[track_caller]
pub fn program(name: &str) -> Program {
    let source = file("tests/clients").join(name);
    let mut folder = None;
    let mut command = match source.extension().and_then(|ending| ending.to_str()) {
        Some("py") => installed(".deps/venv/bin/python"),
        Some("js") => installed(".deps/node/node"),
        Some("php") => Command::new("php"),
        Some("rb") => Command::new("ruby"),
        Some("pl") => Command::new("perl"),
        Some("lua") => Command::new("lua5.1"),
        Some("c") => compiled(&source, folder.insert(tempfile::tempdir().unwrap())),
        _ => panic!("nothing starts {name}"),
    };
    match name.rsplit_once('.').map(|(_, ending)| ending) {
        Some("py") => command.arg("-B").arg(source),
        Some("js") => command.env("NODE_PATH", file(".deps/node/node_modules")).arg(source),
        Some("c") => &mut command,
        _ => command.arg(source),
    };
    Program { command, _folder: folder }
}

#[track_caller]
fn installed(path: &str) -> Command {
    let path = file(path);
    assert!(path.exists(), "no {}: run `make deps`", path.display());
    Command::new(path)
}

#[track_caller]
fn compiled(source: &Path, folder: &TempDir) -> Command {
    let binary = folder.path().join("program");
    let mut compiler = Command::new("cc");
    compiler.args(["-O1", "-Wall", "-Werror", "-o"]).arg(&binary).arg(source).arg("-lhiredis");
    let ended = compiler.output().unwrap_or_else(|e| panic!("cc: {e}; run `make deps`"));
    assert!(ended.status.success(), "{}\nis hiredis there? `make deps`", String::from_utf8_lossy(&ended.stderr));
    Command::new(binary)
}

/// Runs a program to its end; fails the test with what it printed.
#[track_caller]
pub fn run(name: &str, port: u16, outside: u16, way: &str) {
    let Program { mut command, _folder } = program(name);
    command.args([port.to_string(), outside.to_string()]).args(Some(way).filter(|way| !way.is_empty()));
    let ended = command.output().unwrap_or_else(|e| panic!("{name}: {e}; run `make deps`"));
    let (out, err) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success(), "{name} {way}: {}\n{out}{err}", ended.status);
    assert!(
        out.lines().last().is_some_and(|last| last.starts_with("OK ")),
        "{name} {way} has not come to its end:\n{out}{err}"
    );
}

/// Rows of the table in docs/clients.md: client, version, the file that is linked.
fn rows(docs: &str) -> Vec<[&str; 3]> {
    let lines = docs.lines().filter(|line| line.starts_with("| ") && line.contains("](../"));
    let cells = lines.map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
    cells.map(|cells| [cells[1], cells[2], cells[4].split("](../").nth(1).unwrap().trim_end_matches(')')]).collect()
}

/// `name` and its version as the file that pins it says.
fn pinned(pins: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(file(pins)).unwrap();
    let before = match pins.rsplit_once('.').map(|(_, ending)| ending) {
        Some("txt") => format!("{name}=="),
        Some("json") => format!("\"{name}\": \""),
        _ => format!("name = \"{name}\"\nversion = \""),
    };
    Some(text.split_once(&before)?.1.split(['"', '\n']).next().unwrap().to_string())
}

#[test]
fn the_documentation_names_every_client() {
    let docs = std::fs::read_to_string(file("docs/clients.md")).unwrap();
    let rows = rows(&docs);
    for client in CLIENTS {
        let linked = format!("tests/clients/{}", client.program);
        let is = |row: &&[&str; 3]| row[0] == client.name && row[2] == linked;
        assert!(rows.iter().any(|row| is(&row)), "docs/clients.md has no row of {} with {linked}", client.name);
    }
    for program in super::cluster::PROGRAMS {
        let linked = format!("tests/clients/{program}");
        assert!(rows.iter().any(|row| row[2] == linked), "docs/clients.md has no row with {linked}");
    }
    let not_programs = ["steps.py", "steps.js", "another.sh", "package.json", "package-lock.json", "requirements.txt"];
    for found in std::fs::read_dir(file("tests/clients")).unwrap() {
        let name = found.unwrap().file_name().into_string().unwrap();
        let known = name.starts_with("__") || not_programs.contains(&name.as_str());
        assert!(known || rows.iter().any(|row| row[2].ends_with(&format!("/{name}"))), "no row links {name}");
    }
    for [client, _, linked] in &rows {
        assert!(file(linked).exists(), "{client}: there is no {linked}");
    }
}

#[test]
fn the_documentation_tells_the_versions_that_are_pinned() {
    let pins = [
        ("redis-py", "tests/clients/requirements.txt", "redis"),
        ("django-redis", "tests/clients/requirements.txt", "django-redis"),
        ("Celery", "tests/clients/requirements.txt", "celery"),
        ("ioredis", "tests/clients/package.json", "ioredis"),
        ("node-redis", "tests/clients/package.json", "redis"),
        ("redis-rs", "Cargo.lock", "redis"),
        ("fred", "Cargo.lock", "fred"),
    ];
    let docs = std::fs::read_to_string(file("docs/clients.md")).unwrap();
    for [client, version, _] in rows(&docs) {
        let pin = pins.iter().find(|(name, ..)| client.starts_with(name));
        let Some((_, pins, package)) = pin else {
            assert!(version.starts_with("Debian's"), "{client}: nothing pins its version");
            continue;
        };
        assert_eq!(pinned(pins, package).as_deref(), Some(version), "{client}: {pins} says otherwise");
    }
}
