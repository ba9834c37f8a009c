//! Which values make sense, alone and together.
//!
//! Reading has given every value its type; here stands what types cannot say. All faults are
//! collected, each with the place where its key was set.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Config;
use super::fault::{Fault, Origin};
use super::value::{duration_text, size_text};
use crate::telemetry::log;
use crate::upstream::PoolConfig;
use crate::upstream::slots::AddressMap;
use crate::upstream::url::UpstreamUrl;
use crate::{admin, cache, client, upstream};

/// More threads than this are many sidecars, not one.
const MAX_THREADS: usize = 64;
/// Below this, heartbeats (four per `max_staleness`) and ordinary network delays eat the lease.
const LEAST_STALENESS: Duration = Duration::from_millis(50);
/// A smaller cache holds nothing worth its overhead.
const LEAST_CACHE: u64 = 1 << 20;
/// A lane must be able to hold at least one large pipeline.
const LEAST_LANE: u64 = 1 << 20;

/// Collects what is wrong.
struct Check<'a> {
    origins: &'a BTreeMap<String, Origin>,
    faults: Vec<Fault>,
}

/// All that is wrong with the values of a configuration.
pub fn check(config: &Config, origins: &BTreeMap<String, Origin>) -> Vec<Fault> {
    let mut check = Check { origins, faults: Vec::new() };
    check.unless((1..=MAX_THREADS).contains(&config.threads), "threads", || format!("wants 1 to {MAX_THREADS}"));
    check.client(&config.client);
    check.upstream(&config.upstream);
    check.pool("upstream.pool", &config.upstream.pool);
    check.pool("upstream.waiting_pool", &config.upstream.waiting_pool);
    check.cache(&config.cache);
    check.rules(&config.cache.rules);
    check.admin(&config.admin);
    if let Err(problem) = log::check_level(&config.log.level) {
        check.fault("log.level", problem);
    }
    check.faults
}

// === impl Check ===

impl Check<'_> {
    fn client(&mut self, config: &client::Config) {
        self.unless(!config.listen.is_empty(), "client.listen", || "wants at least one address".into());
        for address in &config.listen {
            if let Err(problem) = listen_address(address) {
                self.fault("client.listen", problem);
            }
        }
        self.at_least_one("client.max_clients", config.max_clients);
        self.at_least_one("client.max_pipeline", config.max_pipeline);
        self.at_least_one("client.output_pause_bytes", config.output_pause_bytes);
        self.in_order(
            ("client.output_pause_bytes", config.output_pause_bytes),
            ("client.output_limit_bytes", config.output_limit_bytes),
            |bytes| size_text(bytes as u64),
        );
        let lists =
            [("client.allow", &config.allow), ("client.refuse", &config.refuse), ("client.plain", &config.plain)];
        for (key, commands) in lists {
            for command in commands {
                self.unless(is_command(command), key, || {
                    format!("`{command}` is not a command in lower case, such as `config` or `config|set`")
                });
            }
        }
        for command in config.refuse.iter().filter(|command| config.allow.contains(command)) {
            self.fault("client.refuse", format!("`{command}` is in `allow` too"));
        }
    }

    fn upstream(&mut self, config: &upstream::Config) {
        if let Err(problem) = UpstreamUrl::parse(&config.url) {
            self.fault("upstream.url", problem.to_string());
        }
        self.unless(config.password.is_empty() || config.password_file.is_none(), "upstream.password_file", || {
            "password and password_file are both set; one must go".into()
        });
        let both = !config.sentinel_password.is_empty() && config.sentinel_password_file.is_some();
        self.unless(!both, "upstream.sentinel_password_file", || {
            "sentinel_password and sentinel_password_file are both set; one must go".into()
        });
        self.above_zero("upstream.connect_timeout", config.connect_timeout);
        self.above_zero("upstream.command_timeout", config.command_timeout);
        if let Err(problem) = AddressMap::parse(&config.address_map) {
            self.fault("upstream.address_map", problem.to_string());
        }
        self.above_zero("upstream.replica_max_lag", config.replica_max_lag);
        self.above_zero("upstream.backoff_min", config.backoff_min);
        self.in_order(
            ("upstream.backoff_min", config.backoff_min),
            ("upstream.backoff_max", config.backoff_max),
            duration_text,
        );
        self.at_least_one("upstream.lane_max_commands", config.lane_max_commands);
        self.unless(config.lane_max_bytes as u64 >= LEAST_LANE, "upstream.lane_max_bytes", || {
            format!("wants {} at least", size_text(LEAST_LANE))
        });
        self.above_zero("upstream.lane_idle_timeout", config.lane_idle_timeout);
        self.at_least_one("upstream.large_request_bytes", config.large_request_bytes);
        self.in_order(
            ("upstream.large_request_bytes", config.large_request_bytes),
            ("upstream.lane_max_bytes", config.lane_max_bytes),
            |bytes| size_text(bytes as u64),
        );
    }

    fn pool(&mut self, section: &str, pool: &PoolConfig) {
        self.unless(pool.max >= 1, &format!("{section}.max"), || "wants 1 at least".into());
        let (min_idle, max) = (format!("{section}.min_idle"), format!("{section}.max"));
        self.in_order((&min_idle, pool.min_idle), (&max, pool.max), |n| n.to_string());
        self.above_zero(&format!("{section}.max_age"), pool.max_age);
        self.above_zero(&format!("{section}.idle_timeout"), pool.idle_timeout);
        self.above_zero(&format!("{section}.wait_timeout"), pool.wait_timeout);
    }

    fn cache(&mut self, config: &cache::Config) {
        self.unless(config.bytes >= LEAST_CACHE, "cache.bytes", || {
            format!("wants {} at least; to cache nothing, set mode = \"off\"", size_text(LEAST_CACHE))
        });
        self.unless(config.max_staleness >= LEAST_STALENESS, "cache.max_staleness", || {
            format!("wants {} at least", duration_text(LEAST_STALENESS))
        });
        self.above_zero("cache.max_age", config.max_age);
        self.at_least_one("cache.max_entry_bytes", config.max_entry_bytes);
        self.in_order(
            ("cache.max_entry_bytes", config.max_entry_bytes as u64),
            ("cache.bytes", config.bytes),
            size_text,
        );
        self.above_zero("cache.ttl_mode_age", config.ttl_mode_age);
        self.above_zero("cache.admission_window", config.admission_window);
    }

    fn rules(&mut self, rules: &[cache::Rule]) {
        for (place, rule) in rules.iter().enumerate() {
            let key = format!("cache.rules[{place}]");
            self.unless(!rule.pattern.is_empty(), &format!("{key}.pattern"), || {
                "wants a pattern such as `session:*`".into()
            });
            self.unless(rule.mode.is_some() || rule.max_age.is_some(), &key, || {
                "changes nothing: give it a mode or a max_age".into()
            });
            self.unless(rule.max_age != Some(Duration::ZERO), &format!("{key}.max_age"), || {
                "must be above 0; to cache nothing, set mode = \"off\"".into()
            });
        }
    }

    fn admin(&mut self, config: &admin::Config) {
        let Some(address) = &config.listen else { return };
        if let Err(problem) = host_and_port(address) {
            self.fault("admin.listen", format!("{problem}; \"\" switches it off"));
        }
    }

    fn at_least_one(&mut self, key: &str, value: usize) {
        self.unless(value >= 1, key, || "wants 1 at least".into());
    }

    fn above_zero(&mut self, key: &str, value: Duration) {
        self.unless(value > Duration::ZERO, key, || "must be above 0".into());
    }

    /// One value must not be above another. The fault is told where one of the two was set.
    fn in_order<T: PartialOrd + Copy>(&mut self, low: (&str, T), high: (&str, T), text: impl Fn(T) -> String) {
        if low.1 <= high.1 {
            return;
        }
        let (low_text, high_text) = (text(low.1), text(high.1));
        if self.origins.contains_key(low.0) {
            self.fault(low.0, format!("{low_text} is above {} ({high_text})", high.0));
        } else {
            self.fault(high.0, format!("{high_text} is below {} ({low_text})", low.0));
        }
    }

    fn unless(&mut self, right: bool, key: &str, problem: impl FnOnce() -> String) {
        if !right {
            self.fault(key, problem());
        }
    }

    /// Notes a fault where the key was set, or, if it was not, where its table begins.
    fn fault(&mut self, key: &str, problem: String) {
        let table = || self.origins.get(key.rsplit_once('.')?.0);
        let origin = self.origins.get(key).or_else(table).cloned();
        self.faults.push(Fault { origin, key: key.to_owned(), problem });
    }
}

/// Checks `host:port` or `unix:/path`.
fn listen_address(address: &str) -> Result<(), String> {
    match address.strip_prefix("unix:") {
        Some(path) if path.starts_with('/') => Ok(()),
        Some(_) => Err(format!("`{address}`: the socket's path must be absolute, such as unix:/run/sidecache.sock")),
        None => host_and_port(address),
    }
}

fn host_and_port(address: &str) -> Result<(), String> {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    if host.is_empty() || bare_v6 || port.parse::<u16>().is_err() {
        return Err(format!("`{address}` is not host:port, such as 127.0.0.1:6380 or [::1]:6380"));
    }
    Ok(())
}

/// A command's name, with or without a subcommand, as the table writes it.
fn is_command(name: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase());
    name.splitn(2, '|').all(part)
}
