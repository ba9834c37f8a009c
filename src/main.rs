//! The binary: arguments → configuration → proxy → signals → exit code.
//!
//! Exit codes: 0 after a drain or a good check, 1 if the configuration is faulty or the start
//! fails, 2 for wrong usage, 130 if a second signal cuts the drain short.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use sidecache::config;
use sidecache::config::cli::{self, Flags, Request};
use sidecache::proxy::Proxy;
use sidecache::telemetry::{Registry, log};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A faulty configuration, or a start that failed.
const FAILED: u8 = 1;
/// Cut short by a second signal: 128 + SIGINT, as shells have it.
const CUT_SHORT: i32 = 130;

fn main() -> ExitCode {
    match cli::parse(std::env::args_os()) {
        Ok(Request::Check(file)) => check(&file),
        Ok(Request::Run(flags)) => run(&flags),
        Err(usage) => {
            // A closed output is no reason for another exit code.
            let _ = usage.print();
            u8::try_from(usage.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
        }
    }
}

/// `sidecache check FILE`.
fn check(file: &Path) -> ExitCode {
    match config::check_file(file, |path| std::fs::read_to_string(path)) {
        Ok(config) => {
            let _ = write!(std::io::stdout(), "ok\n{}", config.summary());
            ExitCode::SUCCESS
        }
        Err(faults) => fail(&faults.to_string()),
    }
}

fn run(flags: &Flags) -> ExitCode {
    let config = match config::load(flags, |name| std::env::var(name).ok(), |path| std::fs::read_to_string(path)) {
        Ok(config) => config,
        Err(faults) => return fail(&faults.to_string()),
    };
    if let Err(error) = log::start(&config.log) {
        return fail(&format!("cannot log: {error}\n"));
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start: {error}\n")),
    };
    // Before anything listens, so that no signal can fall between.
    let entered = runtime.enter();
    let signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => return fail(&format!("cannot watch signals: {error}\n")),
    };
    drop(entered);
    // Not from within the runtime: a start that fails drops one of its own, which is a panic there.
    match Proxy::start(config, Arc::new(Registry::new())) {
        Ok(proxy) => runtime.block_on(serve(proxy, signals)),
        Err(error) => fail(&format!("cannot start: {error}\n")),
    }
}

/// Runs until told to end.
async fn serve(proxy: Proxy, mut signals: Signals) -> ExitCode {
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "started");
    // Awaited here and not in the event, whose fields are not evaluated while its level is off.
    let signal = signals.next().await;
    tracing::info!(signal, "draining");
    tokio::select! {
        () = proxy.drain() => {
            tracing::info!("drained");
            ExitCode::SUCCESS
        }
        signal = signals.next() => {
            tracing::warn!(signal, "drain cut short");
            // Returning would drop what is being drained, and that may take its time.
            std::process::exit(CUT_SHORT)
        }
    }
}

/// What tells a process to end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The next signal's name.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Says why and gives the exit code. Not through the log: it may not have started, or be off.
fn fail(why: &str) -> ExitCode {
    let _ = std::io::stderr().write_all(why.as_bytes());
    ExitCode::from(FAILED)
}
