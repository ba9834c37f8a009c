//! The whole configuration: the parts' own settings, summed.
//!
//! Flags overrule environment variables, these the file, and that the defaults. Two stages:
//! *read* gives every value its type (`reader`, `keys`, `value`), *check* asks what types cannot
//! say (`check`). Invariant: both report all faults at once, each with its place, and no fault
//! and no output shows a password. Nothing here touches the process: arguments, environment
//! and files are handed in.

mod check;
pub mod cli;
mod fault;
mod keys;
mod reader;
mod value;

use std::path::Path;

use crate::telemetry::log;
use crate::{admin, cache, client, upstream};

pub use fault::{Fault, Faults, Origin};
pub use value::{duration_text, size_text};

/// The whole configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Workers, each with clients, lanes and a cache of its own.
    pub threads: usize,
    /// The application's side.
    pub client: client::Config,
    /// The server's side.
    pub upstream: upstream::Config,
    /// The cache.
    pub cache: cache::Config,
    /// Metrics and probes.
    pub admin: admin::Config,
    /// Logs.
    pub log: log::Config,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            threads: 1,
            client: client::Config::default(),
            upstream: upstream::Config::default(),
            cache: cache::Config::default(),
            admin: admin::Config::default(),
            log: log::Config::default(),
        }
    }
}

/// The configuration that flags, environment and file make together.
///
/// # Errors
/// All that is wrong with any of them.
pub fn load(
    flags: &cli::Flags,
    environment: impl Fn(&str) -> Option<String>,
    read_file: impl Fn(&Path) -> std::io::Result<String>,
) -> Result<Config, Faults> {
    let overrides = flags.overrides(&environment);
    match flags.file(&environment) {
        Some(path) => from_file(&path, &overrides, read_file),
        None => build("", "", &overrides),
    }
}

/// The configuration that a file alone makes.
///
/// # Errors
/// All that is wrong with it.
pub fn check_file(path: &Path, read_file: impl Fn(&Path) -> std::io::Result<String>) -> Result<Config, Faults> {
    from_file(path, &[], read_file)
}

// === impl Config ===

impl Config {
    /// A few lines on what this configuration does.
    pub fn summary(&self) -> String {
        let cache::Config { mode, bytes, max_staleness, max_age, rules, .. } = &self.cache;
        let cache = match mode {
            cache::Mode::Tracking => format!("by tracking, at most {} stale", duration_text(*max_staleness)),
            cache::Mode::Ttl => format!("by age, at most {} stale", duration_text(self.cache.ttl_mode_age)),
            cache::Mode::Off => "off".to_owned(),
        };
        format!(
            "clients:   {} ({} worker{})\n\
             upstream:  {}\n\
             cache:     {cache}; {}, entries live {} at most, {} rules\n\
             admin:     {}\n",
            self.client.listen.join(", "),
            self.threads,
            if self.threads == 1 { "" } else { "s" },
            without_password(&self.upstream.url),
            size_text(*bytes),
            duration_text(*max_age),
            rules.len(),
            self.admin.listen.as_deref().unwrap_or("off"),
        )
    }
}

fn from_file(
    path: &Path,
    overrides: &[reader::Override],
    read_file: impl Fn(&Path) -> std::io::Result<String>,
) -> Result<Config, Faults> {
    let name = path.display().to_string();
    let text = read_file(path).map_err(|error| {
        let origin = Some(Origin::File { name: name.clone(), line: 0 });
        Faults(vec![Fault { origin, key: String::new(), problem: format!("cannot be read: {error}") }])
    })?;
    build(&name, &text, overrides)
}

fn build(name: &str, text: &str, overrides: &[reader::Override]) -> Result<Config, Faults> {
    let mut config = Config::default();
    let found = reader::read_all(name, text, overrides, |top| keys::read(top, &mut config));
    let mut faults = found.faults;
    // A value that could not be read stands at its default and needs no second fault, nor does its table.
    let unread: Vec<String> = faults.iter().map(|fault| fault.key.clone()).collect();
    let is_known = |fault: &Fault| unread.iter().any(|key| is_or_holds(&fault.key, key));
    faults.extend(check::check(&config, &found.origins).into_iter().filter(|fault| !is_known(fault)));
    faults.sort();
    if faults.is_empty() { Ok(config) } else { Err(Faults(faults)) }
}

/// Whether a key is the other or a table around it.
fn is_or_holds(key: &str, other: &str) -> bool {
    other.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// A URL as it may be shown.
fn without_password(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => format!("{}://{}", &url[..scheme], &url[at + 1..]),
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests;
