//! Which keys there are: one line each, named like the field that it sets.
//!
//! Each struct is taken apart without `..`, so a field without a key does not compile.

use super::Config;
use super::reader::Section;
use crate::telemetry::log;
use crate::{admin, cache, client, upstream};

/// Reads the whole configuration.
pub fn read(top: &mut Section<'_>, config: &mut Config) {
    let Config { threads, client, upstream, cache, admin, log } = config;
    top.read("threads", threads);
    top.section("client", |section| read_client(section, client));
    top.section("upstream", |section| read_upstream(section, upstream));
    top.section("cache", |section| read_cache(section, cache));
    top.section("admin", |section| read_admin(section, admin));
    top.section("log", |section| read_log(section, log));
}

fn read_client(section: &mut Section<'_>, config: &mut client::Config) {
    let client::Config {
        listen,
        max_clients,
        idle_timeout,
        require_auth,
        output_pause_bytes,
        output_limit_bytes,
        max_pipeline,
        allow,
        refuse,
        plain,
        drain_timeout,
    } = config;
    section.read("listen", listen);
    section.read("max_clients", max_clients);
    section.read("idle_timeout", idle_timeout);
    section.read("require_auth", require_auth);
    section.size("output_pause_bytes", output_pause_bytes);
    section.size("output_limit_bytes", output_limit_bytes);
    section.read("max_pipeline", max_pipeline);
    section.read("allow", allow);
    section.read("refuse", refuse);
    section.read("plain", plain);
    section.read("drain_timeout", drain_timeout);
}

fn read_upstream(section: &mut Section<'_>, config: &mut upstream::Config) {
    let upstream::Config {
        url,
        user,
        password,
        password_file,
        sentinel_user,
        sentinel_password,
        sentinel_password_file,
        connect_timeout,
        command_timeout,
        failover_wait,
        cross_slot,
        address_map,
        read_from,
        replica_max_lag,
        backoff_min,
        backoff_max,
        lane_max_commands,
        lane_max_bytes,
        lane_idle_timeout,
        held_max_bytes,
        large_request_bytes,
        pool,
        waiting_pool,
    } = config;
    section.read("url", url);
    section.read("user", user);
    section.read("password", password);
    section.read("password_file", password_file);
    section.read("sentinel_user", sentinel_user);
    section.read("sentinel_password", sentinel_password);
    section.read("sentinel_password_file", sentinel_password_file);
    section.read("connect_timeout", connect_timeout);
    section.read("command_timeout", command_timeout);
    section.read("failover_wait", failover_wait);
    section.read("cross_slot", cross_slot);
    section.read("address_map", address_map);
    section.read("read_from", read_from);
    section.read("replica_max_lag", replica_max_lag);
    section.read("backoff_min", backoff_min);
    section.read("backoff_max", backoff_max);
    section.read("lane_max_commands", lane_max_commands);
    section.size("lane_max_bytes", lane_max_bytes);
    section.read("lane_idle_timeout", lane_idle_timeout);
    section.size("held_max_bytes", held_max_bytes);
    section.size("large_request_bytes", large_request_bytes);
    section.section("pool", |section| read_pool(section, pool));
    section.section("waiting_pool", |section| read_pool(section, waiting_pool));
}

fn read_pool(section: &mut Section<'_>, config: &mut upstream::PoolConfig) {
    let upstream::PoolConfig { max, min_idle, max_age, idle_timeout, wait_timeout } = config;
    section.read("max", max);
    section.read("min_idle", min_idle);
    section.read("max_age", max_age);
    section.read("idle_timeout", idle_timeout);
    section.read("wait_timeout", wait_timeout);
}

fn read_cache(section: &mut Section<'_>, config: &mut cache::Config) {
    let cache::Config {
        mode,
        bytes,
        max_staleness,
        max_age,
        max_entry_bytes,
        ttl_mode_age,
        admission_window,
        audit_every,
        audit_bypass,
        mget,
        rules,
    } = config;
    section.read("mode", mode);
    section.size("bytes", bytes);
    section.read("max_staleness", max_staleness);
    section.read("max_age", max_age);
    section.size("max_entry_bytes", max_entry_bytes);
    section.read("ttl_mode_age", ttl_mode_age);
    section.read("admission_window", admission_window);
    section.read("audit_every", audit_every);
    section.read("audit_bypass", audit_bypass);
    section.read("mget", mget);
    section.each("rules", |section| rules.push(read_rule(section)));
}

fn read_rule(section: &mut Section<'_>) -> cache::Rule {
    let mut rule = cache::Rule { pattern: String::new(), mode: None, max_age: None };
    let cache::Rule { pattern, mode, max_age } = &mut rule;
    section.read("pattern", pattern);
    section.read("mode", mode);
    section.read("max_age", max_age);
    rule
}

fn read_admin(section: &mut Section<'_>, config: &mut admin::Config) {
    let admin::Config { listen } = config;
    section.read("listen", listen);
    if listen.as_deref().is_some_and(|address| ["", "off"].contains(&address)) {
        *listen = None;
    }
}

fn read_log(section: &mut Section<'_>, config: &mut log::Config) {
    let log::Config { format, level } = config;
    section.read("format", format);
    section.read("level", level);
}
