//! Whole configurations: all faults at once, layers, and the reference file.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::telemetry::log::Format;
use crate::telemetry::test_docs;
use crate::upstream::url::{Place, UpstreamUrl};

const REFERENCE: &str = include_str!("../../config/sidecache.toml");
const CLUSTER: &str = include_str!("../../config/cluster.toml");
const STANDALONE: &str = include_str!("../../config/standalone.toml");
const SENTINEL: &str = include_str!("../../config/sentinel.toml");

/// Loads from arguments, an environment and one file named `a.toml`.
fn load_from(arguments: &[&str], environment: &[(&str, &str)], file: &str) -> Result<Config, Faults> {
    let arguments = std::iter::once("sidecache").chain(arguments.iter().copied()).map(OsString::from);
    let cli::Request::Run(flags) = cli::parse(arguments).unwrap() else { panic!("not a run") };
    let environment: HashMap<_, _> = environment.iter().copied().collect();
    load(
        &flags,
        |name| environment.get(name).map(|text| (*text).to_owned()),
        |path| if path == Path::new("a.toml") { Ok(file.to_owned()) } else { Err(std::io::ErrorKind::NotFound.into()) },
    )
}

fn from_text(file: &str) -> Result<Config, Faults> {
    load_from(&["--config", "a.toml"], &[], file)
}

/// The faults, one per line.
fn faults(file: &str) -> Vec<String> {
    from_text(file).unwrap_err().0.iter().map(Fault::to_string).collect()
}

/// The only fault of a file.
fn fault(file: &str) -> String {
    let faults = faults(file);
    assert_eq!(faults.len(), 1, "{faults:?}");
    faults.into_iter().next().unwrap()
}

#[test]
fn nothing_set_is_the_default() {
    assert_eq!(load_from(&[], &[], "").unwrap(), Config::default());
    assert_eq!(from_text("").unwrap(), Config::default());
}

#[test]
fn all_faults_are_told_at_once_with_their_lines() {
    let file = "threads = 0\n\n[client]\nlisten = [\"nowhere\"]\nmax_clinets = 5\n[upstream]\nurl = \"rediss://:hunter2@a\"\n\
        [upstream.pool]\nmax = 2\nmin_idle = 3\n[cache]\nmax_age = \"soon\"\nbytes = 1024\n\
        [[cache.rules]]\npattern = \"\"\nmode = \"of\"\n[[cache.rules]]\npattern = \"x\"\n[log]\nlevel = \"loud\"\n[cahce]\n";
    let expected = [
        "a.toml:1: threads: wants 1 to 64",
        "a.toml:4: client.listen: `nowhere` is not host:port, such as 127.0.0.1:6380 or [::1]:6380",
        "a.toml:5: client.max_clinets: unknown key; did you mean `max_clients`?",
        "a.toml:7: upstream.url: TLS to upstream is not supported (rediss://): put a TLS tunnel beside it, or use redis://",
        "a.toml:10: upstream.pool.min_idle: 3 is above upstream.pool.max (2)",
        "a.toml:12: cache.max_age: wants a duration such as \"250ms\", \"1s\" or \"5m\", not `soon`",
        "a.toml:13: cache.bytes: 1KiB is below cache.max_entry_bytes (256KiB)",
        "a.toml:13: cache.bytes: wants 1MiB at least; to cache nothing, set mode = \"off\"",
        "a.toml:15: cache.rules[0].pattern: wants a pattern such as `session:*`",
        "a.toml:16: cache.rules[0].mode: `of` is none of `tracking`, `ttl`, `off`; did you mean `off`?",
        "a.toml:17: cache.rules[1]: changes nothing: give it a mode or a max_age",
        "a.toml:20: log.level: `loud` is not a level; levels are off, error, warn, info, debug, trace",
        "a.toml:21: cahce: unknown key; did you mean `cache`?",
    ];
    assert_eq!(faults(file), expected);
}

#[test]
fn faults_come_in_the_order_of_the_file_then_of_environment_and_flags() {
    let loaded = load_from(
        &["--config", "a.toml", "--threads", "many", "--max-staleness=1"],
        &[("SIDECACHE_CACHE_BYTES", "lots")],
        "[cache]\nmget = 5\n[log]\nformat = 1\n",
    );
    let told: Vec<_> = loaded.unwrap_err().0.iter().map(|fault| fault.origin.clone().unwrap().to_string()).collect();
    assert_eq!(told, ["a.toml:2", "a.toml:4", "SIDECACHE_CACHE_BYTES", "--max-staleness", "--threads"]);
}

#[test]
fn syntax_errors_do_not_hide_other_faults() {
    let told = faults("threads = \n[client]\nmax_clients = \"x\"\n[cache\nbytes = 1\n");
    assert!(told.iter().any(|fault| fault.starts_with("a.toml:1: ")), "{told:?}");
    assert!(told.iter().any(|fault| fault.starts_with("a.toml:3: client.max_clients: ")), "{told:?}");
    assert!(told.iter().any(|fault| fault.starts_with("a.toml:4: ")), "{told:?}");
}

#[test]
fn values_of_the_wrong_type_are_named_by_type() {
    assert_eq!(fault("threads = \"2\""), "a.toml:1: threads: wants a whole number, not a value of type string");
    assert_eq!(
        fault("[cache]\nmax_age = 5"),
        "a.toml:2: cache.max_age: wants a duration such as \"250ms\", \"1s\" or \"5m\", not 5"
    );
    assert_eq!(fault("cache = 5"), "a.toml:1: cache: is a table: write [cache]");
    assert_eq!(fault("[cache]\nrules = 5"), "a.toml:2: cache.rules: is a list of tables: write [[cache.rules]]");
    assert_eq!(fault("[cache]\nrules = [5]"), "a.toml:2: cache.rules: is a list of tables: write [[cache.rules]]");
    assert!(fault("[client]\nlisten = \"a:1\"").contains("wants a list"));
    assert!(fault("threads = -1").contains("wants a whole number, not -1"));
}

#[test]
fn a_pair_out_of_order_is_told_where_one_of_them_was_set() {
    assert_eq!(
        fault("[upstream]\nbackoff_min = \"5s\""),
        "a.toml:2: upstream.backoff_min: 5s is above upstream.backoff_max (1s)"
    );
    assert_eq!(
        fault("[upstream]\nbackoff_max = \"1ms\""),
        "a.toml:2: upstream.backoff_max: 1ms is below upstream.backoff_min (20ms)"
    );
}

#[test]
fn what_would_panic_or_never_work_later_is_refused() {
    for file in [
        "threads = 65",
        "[upstream.pool]\nmax = 0",
        "[upstream.waiting_pool]\nidle_timeout = \"0s\"",
        "[upstream]\nconnect_timeout = \"0s\"",
        "[upstream]\nurl = \"redis://\"",
        "[upstream]\nurl = \"localhost:6379\"",
        "[upstream]\npassword = \"a\"\npassword_file = \"b\"",
        "[upstream]\nsentinel_password = \"a\"\nsentinel_password_file = \"b\"",
        "[upstream]\nlane_max_bytes = 1048575",
        "[cache]\nmax_staleness = \"49ms\"",
        "[cache]\nmax_age = \"0s\"",
        "[cache]\nmax_entry_bytes = 0",
        "[cache]\n[[cache.rules]]\npattern = \"a\"\nmax_age = \"0s\"",
        "[client]\nlisten = []",
        "[client]\nlisten = [\"unix:relative\"]",
        "[client]\nlisten = [\"::1:6380\"]",
        "[client]\nallow = [\"DEBUG\"]",
        "[client]\nallow = [\"debug\"]\nrefuse = [\"debug\"]",
        "[admin]\nlisten = \"9180\"",
    ] {
        fault(file);
    }
    for file in [
        "threads = 64",
        "[cache]\nmax_staleness = \"50ms\"",
        "[client]\nlisten = [\"[::1]:6380\", \"localhost:0\", \"unix:/a\"]\nallow = [\"config|set\"]",
        "[upstream]\nurl = \"unix:///run/redis.sock?db=2\"",
        "[cache]\nbytes = \"1MiB\"",
    ] {
        from_text(file).unwrap();
    }
}

#[test]
fn flags_overrule_the_environment_which_overrules_the_file() {
    let file = "threads = 2\n[cache]\nbytes = \"2MiB\"\nmax_staleness = \"2s\"\n[log]\nlevel = \"warn\"\n";
    let environment = [("SIDECACHE_CONFIG", "a.toml"), ("SIDECACHE_CACHE_BYTES", "3MiB"), ("SIDECACHE_THREADS", "3")];
    let config = load_from(&["--threads", "4"], &environment, file).unwrap();
    assert_eq!((config.threads, config.cache.bytes), (4, 3 << 20));
    assert_eq!((config.cache.max_staleness, config.log.level.as_str()), (Duration::from_secs(2), "warn"));
    assert_eq!(config.cache.max_age, Config::default().cache.max_age);
}

#[test]
fn every_flag_and_variable_sets_its_key() {
    let values = [
        ("client.listen", "a:1"),
        ("upstream.url", "redis://b"),
        ("admin.listen", "off"),
        ("threads", "3"),
        ("cache.bytes", "5MiB"),
        ("cache.max_staleness", "3s"),
        ("client.require_auth", "true"),
        ("log.level", "debug"),
        ("log.format", "json"),
        ("upstream.user", "u"),
        ("upstream.password", "p"),
        ("upstream.password_file", "/p"),
        ("upstream.sentinel_password", "s"),
        ("upstream.sentinel_password_file", "/s"),
    ];
    assert_eq!(values.map(|(key, _)| key).as_slice(), cli::SETTINGS.iter().map(|s| s.key).collect::<Vec<_>>());
    for (setting, (_, value)) in cli::SETTINGS.iter().zip(values) {
        let by_variable = load_from(&[], &[(setting.variable, value)], "").unwrap();
        assert_ne!(by_variable, Config::default(), "{} has no effect", setting.variable);
        if !setting.flag.is_empty() {
            let by_flag = load_from(&[&format!("--{}={value}", setting.flag)], &[], "").unwrap();
            assert_eq!(by_flag, by_variable, "{}", setting.flag);
        }
    }
    let config = load_from(&["--require-auth", "--listen", "a:1", "--listen=unix:/b"], &[], "").unwrap();
    assert!(config.client.require_auth);
    assert_eq!(config.client.listen, ["a:1", "unix:/b"]);
    let config = load_from(&[], &[("SIDECACHE_LISTEN", "a:1,b:2"), ("SIDECACHE_METRICS", "")], "").unwrap();
    assert_eq!(config.client.listen, ["a:1", "b:2"]);
    assert_eq!(config.admin, admin::Config::default(), "an empty variable is none");
}

#[test]
fn a_file_that_cannot_be_read_is_one_clear_fault() {
    let told = load_from(&["--config", "b.toml"], &[], "").unwrap_err().to_string();
    assert!(told.starts_with("b.toml: cannot be read: "), "{told}");
}

#[test]
fn passwords_are_shown_nowhere() {
    let file = "[upstream]\nurl = \"redis://u:hunter2@h:1/3\"\n";
    let environment = [("SIDECACHE_CONFIG", "a.toml"), ("SIDECACHE_UPSTREAM_PASSWORD", "hunter2")];
    let config = load_from(&[], &environment, file).unwrap();
    assert_eq!(config.upstream.password, "hunter2");
    assert!(config.summary().contains("redis://h:1/3"), "{}", config.summary());
    for shown in [format!("{config:?}"), config.summary()] {
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    for wrong in
        ["url = \"redis:hunter2\"", "password = [\"hunter2\"]", "password = \"hunter2", "pasword = \"hunter2\""]
    {
        let told = faults(&format!("[upstream]\n{wrong}\n")).join("\n");
        assert!(!told.contains("hunter2"), "{told}");
    }
}

#[test]
fn the_reference_file_says_the_defaults() {
    assert_eq!(from_text(REFERENCE).unwrap_or_else(|faults| panic!("{faults}")), Config::default());
}

#[test]
fn the_reference_file_has_every_key_and_no_other() {
    let uncommented = uncommented();
    let mut config = Config::default();
    let found = reader::read_all("", &uncommented, &[], |top| keys::read(top, &mut config));
    assert_eq!(found.faults, [], "its commented keys are right too");
    assert_eq!(check::check(&Config { upstream: Default::default(), ..config }, &found.origins), []);
    let set: BTreeSet<String> = found.origins.keys().map(|key| key.replace("[0]", "")).collect();
    let all: BTreeSet<String> = found.keys.into_iter().collect();
    let missing: Vec<_> = all.difference(&set).collect();
    assert!(missing.is_empty(), "not in sidecache.toml: {missing:?}");
}

#[test]
fn the_example_is_right() {
    let config = from_text(STANDALONE).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!((config.cache.rules.len(), config.log.format), (2, Format::Json));
    assert_eq!(config.upstream.password_file, Some(PathBuf::from("/run/secrets/redis-password")));
}

#[test]
fn the_example_in_front_of_a_cluster_sets_the_url_alone() {
    let config = from_text(CLUSTER).unwrap_or_else(|faults| panic!("{faults}"));
    let place = UpstreamUrl::parse(&config.upstream.url).unwrap().place;
    assert!(matches!(place, Place::Cluster { seeds } if seeds.len() == 2));
}

#[test]
fn the_example_in_front_of_sentinels_sets_the_url_alone() {
    let config = from_text(SENTINEL).unwrap_or_else(|faults| panic!("{faults}"));
    let place = UpstreamUrl::parse(&config.upstream.url).unwrap().place;
    assert!(matches!(place, Place::Sentinel { sentinels, service } if sentinels.len() == 2 && service == "mymaster"));
    let defaults = Config { upstream: config.upstream.clone(), ..Config::default() };
    assert_eq!(config, defaults);
}

#[test]
fn the_document_of_the_configuration_is_up_to_date() {
    test_docs::check("docs/configuration.md", &document());
}

#[test]
fn the_command_line_is_sound_and_names_its_variables() {
    let help = cli::parse(["sidecache", "--help"].map(OsString::from)).unwrap_err().to_string();
    for setting in cli::SETTINGS {
        assert!(help.contains(setting.variable), "{} is not in --help", setting.variable);
    }
    let request = cli::parse(["sidecache", "check", "x"].map(OsString::from)).unwrap();
    assert_eq!(request, cli::Request::Check("x".into()));
    for wrong in
        [&["sidecache", "--nonsense"][..], &["sidecache", "check"], &["sidecache", "--threads", "1", "check", "x"]]
    {
        let error = cli::parse(wrong.iter().map(OsString::from)).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{wrong:?}");
    }
}

/// The reference with its examples switched on.
fn uncommented() -> String {
    let is_example = |line: &str| line.starts_with('#') && !line.starts_with("# ") && line != "#";
    REFERENCE.lines().map(|line| if is_example(line) { &line[1..] } else { line }.to_owned() + "\n").collect()
}

/// docs/configuration.md, made of the reference: comments become text, keys become headings.
fn document() -> String {
    let mut text = String::from(
        "# Configuration\n\nMade from `config/sidecache.toml`; `UPDATE_DOCS=1 cargo test` writes it anew.\n\n",
    );
    let mut comment: Vec<&str> = Vec::new();
    for line in REFERENCE.lines() {
        let example = line.strip_prefix('#').filter(|rest| !rest.starts_with(' ') && !rest.is_empty());
        let content = example.unwrap_or(line);
        if line.is_empty() {
            append_paragraph(&mut text, &mut comment);
        } else if let Some(table) = content.strip_prefix('[') {
            text += &format!("## `[{table}`\n\n");
            append_paragraph(&mut text, &mut comment);
        } else if let Some((key, value)) = content.split_once(" = ") {
            let kind = if example.is_some() { "no default; for example" } else { "default" };
            text += &format!("- **`{key}`** ({kind} `{value}`): ");
            text += &(comment.join(" ") + "\n");
            comment.clear();
        } else {
            comment.push(line.trim_start_matches('#').trim());
        }
        if line.is_empty() && !text.ends_with("\n\n") {
            text.push('\n');
        }
    }
    text
}

fn append_paragraph(text: &mut String, comment: &mut Vec<&str>) {
    if !comment.is_empty() {
        *text += &(comment.join("\n").trim().to_owned() + "\n\n");
        comment.clear();
    }
}
