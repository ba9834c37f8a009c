//! A load generator for what speaks RESP, and a relay that puts distance between two of them.
//!
//! `run` sends a mix of commands over many connections and prints one JSON object; `fill` puts in the keys that a mix
//! reads; `relay` passes bytes on, each way so much later. One thread and one epoll: cheap enough per command that what
//! is measured is the other side. In open loop (`--rate`) a latency counts from the moment at which the command was due,
//! whether or not a connection was free then: no coordinated omission. Every reply is counted and its type, and a
//! value's length, checked. Not here: any judgement of the figures; `benches/*.py` start the processes and judge.

mod connection;
mod dice;
mod fill;
mod histogram;
mod mix;
mod relay;
mod report;
mod run;
mod twitter;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use mix::Mix;

/// Sends load to what speaks RESP on 127.0.0.1.
#[derive(Parser)]
#[command(name = "load")]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Sends a mix of commands and prints one JSON object of counts and latencies.
    Run(RunArgs),
    /// Puts in all keys that a mix reads.
    Fill {
        /// Port on 127.0.0.1.
        #[arg(long)]
        port: u16,
        /// As in `run`.
        #[arg(long)]
        mix: Mix,
        /// For what is drawn: times to live.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Passes bytes on, each way so much later, in order and as many as come; until it is ended.
    Relay {
        /// Port on 127.0.0.1 to accept at; 0 takes any. The port is printed when it listens.
        #[arg(long)]
        listen: u16,
        /// Port on 127.0.0.1 to connect to.
        #[arg(long)]
        to: u16,
        /// Milliseconds, each way.
        #[arg(long)]
        delay_ms: f64,
    },
}

/// One run's size and shape.
#[derive(Args)]
struct RunArgs {
    /// Port on 127.0.0.1.
    #[arg(long)]
    port: u16,
    /// Connections, all open for the whole run.
    #[arg(long, default_value_t = 50)]
    connections: usize,
    /// Seconds that count.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Seconds before them that do not.
    #[arg(long, default_value_t = 0.0)]
    warm_up: f64,
    /// Commands per second, at random times (Poisson); without it each connection sends as soon as it is answered.
    #[arg(long)]
    rate: Option<f64>,
    /// Commands that a connection sends at once.
    #[arg(long, default_value_t = 1)]
    pipeline: usize,
    /// get:KEYS:BYTES[:ALPHA], set:KEYS:BYTES[:ALPHA], mget:N:KEYS:BYTES[:ALPHA] or twitter:CLUSTER[:KEYS].
    #[arg(long)]
    mix: Mix,
    /// For everything that is drawn.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// What we asked the system for.
    #[error("{0}: {1}")]
    System(&'static str, io::Error),
    /// What the other side said.
    #[error("unexpected reply: {0}")]
    Reply(String),
    /// A number that makes no sense.
    #[error("{0}")]
    Argument(&'static str),
}

impl Failure {
    /// For `map_err`: what was tried.
    fn of(tried: &'static str) -> impl Fn(io::Error) -> Failure {
        move |error| Failure::System(tried, error)
    }
}

fn main() -> ExitCode {
    let done = match Cli::parse().what {
        What::Run(args) => {
            shape(&args).and_then(|shape| run::run(address(args.port), &args.mix, &shape)).map(|report| {
                println!("{}", report.to_json());
            })
        }
        What::Fill { port, mix, seed } => fill::fill(address(port), &mix, seed),
        What::Relay { listen, to, delay_ms } => match Duration::try_from_secs_f64(delay_ms / 1e3) {
            Ok(delay) => listener(listen).and_then(|listener| relay::relay(&listener, address(to), delay)),
            Err(_) => Err(Failure::Argument("--delay-ms is no time")),
        },
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("load: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Listens there and prints the port.
fn listener(port: u16) -> Result<TcpListener, Failure> {
    let listener = TcpListener::bind(address(port)).map_err(Failure::of("listening"))?;
    println!("{}", listener.local_addr().map_err(Failure::of("listening"))?.port());
    Ok(listener)
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn shape(args: &RunArgs) -> Result<run::Shape, Failure> {
    let time =
        |seconds: f64| Duration::try_from_secs_f64(seconds).map_err(|_| Failure::Argument("no number of seconds"));
    if args.connections == 0 || args.pipeline == 0 || args.rate.is_some_and(|rate| rate.is_nan() || rate <= 0.0) {
        return Err(Failure::Argument("--connections, --pipeline and --rate must be more than 0"));
    }
    Ok(run::Shape {
        connections: args.connections,
        window: time(args.seconds)?,
        warm_up: time(args.warm_up)?,
        rate: args.rate,
        pipeline: args.pipeline,
        seed: args.seed,
    })
}
