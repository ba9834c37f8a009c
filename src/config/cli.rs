//! Flags and environment variables: one table, from which the command line is built.
//!
//! Values stay text here, so that a wrong one is reported beside all other faults and not
//! alone. Passwords have no flag: a command line can be read by everyone on the machine.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::fault::Origin;
use super::reader::Override;

/// The environment variable that names the configuration file.
const CONFIG_VARIABLE: &str = "SIDECACHE_CONFIG";

/// A setting that can be made outside the file.
pub struct Setting {
    /// The key that it sets, dotted.
    pub key: &'static str,
    /// The flag, without `--`; empty: none.
    pub flag: &'static str,
    /// The environment variable.
    pub variable: &'static str,
    /// What stands for its value in `--help`.
    pub value: &'static str,
    /// One line for `--help`.
    pub help: &'static str,
}

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Run.
    Run(Flags),
    /// Check a file.
    Check(PathBuf),
}

/// The flags that were given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// All others: the place in `SETTINGS` and the values, in the order given.
    values: Vec<(usize, Vec<String>)>,
}

const fn setting(
    key: &'static str,
    flag: &'static str,
    variable: &'static str,
    value: &'static str,
    help: &'static str,
) -> Setting {
    Setting { key, flag, variable, value, help }
}

/// Every setting that can be made outside the file.
#[rustfmt::skip]
pub const SETTINGS: &[Setting] = &[
    setting("client.listen", "listen", "SIDECACHE_LISTEN", "ADDRESS", "Where clients connect: host:port or unix:/path; may be repeated (variable: separated by commas)"),
    setting("upstream.url", "upstream", "SIDECACHE_UPSTREAM", "URL", "The upstream: redis://host[:port][/db] or unix:///path"),
    setting("admin.listen", "metrics", "SIDECACHE_METRICS", "ADDRESS", "Where /metrics, /livez and /readyz are served: host:port, or `off`"),
    setting("threads", "threads", "SIDECACHE_THREADS", "N", "Workers, each with clients, lanes and a cache of its own"),
    setting("cache.bytes", "cache-bytes", "SIDECACHE_CACHE_BYTES", "SIZE", "Memory for the cache, such as 64MiB"),
    setting("cache.max_staleness", "max-staleness", "SIDECACHE_MAX_STALENESS", "DURATION", "No value overwritten longer ago is ever served, such as 1s"),
    setting("client.require_auth", "require-auth", "SIDECACHE_REQUIRE_AUTH", "BOOL", "Whether clients must AUTH before anything else"),
    setting("log.level", "log-level", "SIDECACHE_LOG_LEVEL", "LEVEL", "off, error, warn, info, debug or trace"),
    setting("log.format", "log-format", "SIDECACHE_LOG_FORMAT", "FORMAT", "text or json"),
    setting("upstream.user", "", "SIDECACHE_UPSTREAM_USER", "NAME", "The upstream user"),
    setting("upstream.password", "", "SIDECACHE_UPSTREAM_PASSWORD", "PASSWORD", "Its password"),
    setting("upstream.password_file", "", "SIDECACHE_UPSTREAM_PASSWORD_FILE", "FILE", "A file that holds its password"),
    setting("upstream.sentinel_password", "", "SIDECACHE_SENTINEL_PASSWORD", "PASSWORD", "The Sentinels' own password"),
    setting("upstream.sentinel_password_file", "", "SIDECACHE_SENTINEL_PASSWORD_FILE", "FILE", "A file that holds it"),
];

/// Reads the command line, the program's name first.
///
/// # Errors
/// Usage errors, and `--help` and `--version`, whose texts clap has as errors too.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Request, clap::Error> {
    let mut matches = command().try_get_matches_from(arguments)?;
    if let Some(("check", matches)) = matches.subcommand() {
        return Ok(Request::Check(matches.get_one::<PathBuf>("file").cloned().unwrap_or_default()));
    }
    let values = flags().filter_map(|(place, setting)| Some((place, given(&mut matches, setting.flag)?)));
    let values = values.collect();
    Ok(Request::Run(Flags { config: matches.remove_one("config"), values }))
}

// === impl Flags ===

impl Flags {
    /// The configuration file: the flag's, else the environment's.
    pub fn file(&self, environment: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
        self.config.clone().or_else(|| variable(environment, CONFIG_VARIABLE).map(PathBuf::from))
    }

    /// What overrules the file: first the environment, then the flags, which overrule that too.
    pub fn overrides(&self, environment: impl Fn(&str) -> Option<String>) -> Vec<Override> {
        let variables = SETTINGS.iter().filter_map(|setting| {
            let text = variable(&environment, setting.variable)?;
            Some(Override { key: setting.key, origin: Origin::Environment(setting.variable), texts: vec![text] })
        });
        let flags = self.values.iter().filter_map(|(place, texts)| {
            let setting = SETTINGS.get(*place)?;
            let origin = Origin::Flag(format!("--{}", setting.flag));
            Some(Override { key: setting.key, origin, texts: texts.clone() })
        });
        variables.chain(flags).collect()
    }
}

/// An environment variable; an empty one is none, as composed deployments leave them.
fn variable(environment: impl Fn(&str) -> Option<String>, name: &str) -> Option<String> {
    environment(name).filter(|text| !text.is_empty())
}

fn flags() -> impl Iterator<Item = (usize, &'static Setting)> {
    SETTINGS.iter().enumerate().filter(|(_, setting)| !setting.flag.is_empty())
}

fn given(matches: &mut ArgMatches, flag: &str) -> Option<Vec<String>> {
    Some(matches.remove_many::<String>(flag)?.collect())
}

fn command() -> Command {
    let variables = SETTINGS.iter().filter(|setting| setting.flag.is_empty());
    let variables: Vec<_> = variables.map(|setting| format!("  {}: {}", setting.variable, setting.help)).collect();
    let config = Arg::new("config").long("config").value_name("FILE").value_parser(clap::value_parser!(PathBuf));
    let file = Arg::new("file").value_name("FILE").required(true).value_parser(clap::value_parser!(PathBuf));
    Command::new("sidecache")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A coherent caching sidecar for Redis and Valkey")
        .after_help(format!(
            "Flags overrule environment variables, these the file, and that the defaults.\n\
             Without a flag, since a command line can be read by others:\n{}",
            variables.join("\n")
        ))
        .args_conflicts_with_subcommands(true)
        .arg(config.help(format!("The configuration file [env: {CONFIG_VARIABLE}]")))
        .args(flags().map(|(_, setting)| argument(setting)))
        .subcommand(Command::new("check").about("Check a configuration file and report every fault").arg(file))
}

fn argument(setting: &Setting) -> Arg {
    let argument = Arg::new(setting.flag)
        .long(setting.flag)
        .value_name(setting.value)
        .action(ArgAction::Append)
        .help(format!("{} [env: {}]", setting.help, setting.variable));
    if setting.value == "BOOL" {
        return argument.num_args(0..=1).require_equals(true).default_missing_value("true");
    }
    argument
}
