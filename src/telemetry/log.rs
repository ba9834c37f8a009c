//! Logs: one line per event, as text or JSON, to standard error.
//!
//! Invariant: nothing is logged per command; what happens per command is counted. Not here:
//! what is logged, which stands where it happens.

use tracing_subscriber::EnvFilter;

/// The shape of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// For collectors: one JSON object per line.
    Json,
}

/// The log's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The shape of a line.
    pub format: Format,
    /// `error`, `warn`, `info`, `debug`, `trace` or `off`, or tracing's directives (`info,sidecache::upstream=debug`).
    pub level: String,
}

impl Default for Config {
    fn default() -> Self {
        Config { format: Format::Text, level: "info".into() }
    }
}

/// Checks a level; the error says what is wrong with it.
pub fn check_level(level: &str) -> Result<(), String> {
    filter(level).map(|_| ())
}

/// Starts logging for the whole process.
///
/// # Errors
/// If the level cannot be read, or if the process logs already.
pub fn start(config: &Config) -> Result<(), String> {
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter(&config.level)?).with_writer(std::io::stderr).with_ansi(false);
    match config.format {
        Format::Text => builder.try_init(),
        Format::Json => builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init(),
    }
    .map_err(|error| error.to_string())
}

/// Reads a level strictly: a bare word must be a level, where tracing would take it for a module's name.
fn filter(level: &str) -> Result<EnvFilter, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    for directive in level.split(',') {
        let bare = !directive.contains(['=', '[']);
        if bare && !LEVELS.contains(&directive.trim()) {
            return Err(format!("`{directive}` is not a level; levels are {}", LEVELS.join(", ")));
        }
    }
    EnvFilter::try_new(level).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives_are_told_from_typing_errors() {
        for level in ["info", "off", "warn,sidecache::upstream=debug", "sidecache=trace"] {
            assert_eq!(check_level(level), Ok(()), "{level}");
        }
        for level in ["", "inof", "loud", "info,sidecache", "sidecache=loud"] {
            assert!(check_level(level).is_err(), "{level}");
        }
    }

    #[test]
    fn the_default_level_is_a_level() {
        assert_eq!(check_level(&Config::default().level), Ok(()));
    }
}
