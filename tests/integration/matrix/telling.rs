//! One case, told in each way that a client may tell it.

use sidecache::command::Row;
use sidecache::telemetry::labels::Class;

use super::compare::{How, alike};
use super::exceptions::{DIFFERENCES, NOT_KEPT};
use super::ways::{Bench, Both, Ways, class_of, show};
use super::{Case, Seen, rewriting};
use crate::samples::of_row;
use crate::support::wait::{PATIENCE, holds_within};

/// Every way.
pub const ALL: [Told; 3] = [Told::Alone, Told::Whole, Told::Pieces];

/// How the last command of a case is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told {
    /// By itself; read again until it is a hit, if it may be one.
    Alone,
    /// In a transaction that arrives in one write.
    Whole,
    /// In a transaction, command by command.
    Pieces,
}

/// Runs a case in each of these ways; gives connections for the next.
pub fn run_case(bench: &mut Bench, mut ways: Ways, case: &Case, told: &[Told], seen: &mut Seen) -> Ways {
    let lasting = case.commands.iter().any(|words| changes_the_session(words));
    let mut is_new = false;
    for &told in told {
        if told != Told::Alone && !case.commands.last().is_some_and(|last| fits_in_multi(last)) {
            continue;
        }
        if lasting {
            ways = bench.ways(case.resp3);
        }
        let renewed = if is_new { Ok(()) } else { bench.renew(&case.setup) };
        is_new = case.commands.iter().all(|words| changes_nothing(words));
        let result = renewed.and_then(|()| tell(bench, &mut ways, case, told, seen));
        let result = match result {
            Ok(()) if !lasting => continue,
            Ok(()) => ways.ends_alike(),
            Err(fault) => Err(fault),
        };
        ways = bench.ways(case.resp3);
        if let Err(fault) = result {
            let proto = if case.resp3 { "RESP3" } else { "RESP2" };
            seen.faults.push(format!("{} ({told:?}, {proto}): {fault}", case.line));
        }
    }
    ways
}

/// Whether it leaves the data as it was.
fn changes_nothing(words: &[String]) -> bool {
    of_row(words, |row, _| row.is_read_only())
}

/// Whether what it does to its connection may outlast it.
fn changes_the_session(words: &[String]) -> bool {
    let class = class_of(words);
    !matches!(class, Class::Read | Class::Mget | Class::Plain | Class::Write | Class::Script | Class::Sweep)
        && class != Class::Blocking
}

/// Whether it is queued in a transaction like others: those that open or end one, and those whose confirmations would
/// stand inside EXEC's reply, have lines of their own.
fn fits_in_multi(words: &[String]) -> bool {
    let apart = of_row(words, |row, _| matches!(row.name, "quit" | "monitor"));
    !apart && !matches!(class_of(words), Class::Transaction | Class::Subscribe)
}

fn tell(bench: &mut Bench, ways: &mut Ways, case: &Case, told: Told, seen: &mut Seen) -> Result<(), String> {
    let Some((last, before)) = case.commands.split_last() else { return Ok(()) };
    let mut commands = case.commands.clone();
    let mut replies = ways.tell(before)?;
    if told != Told::Alone {
        commands.insert(before.len(), vec!["MULTI".into()]);
        commands.push(vec!["EXEC".into()]);
    }
    let rest = &commands[before.len()..];
    replies.extend(if told == Told::Whole { ways.tell_at_once(rest)? } else { ways.tell(rest)? });
    for (words, both) in commands.iter().zip(&replies) {
        note(words, both, seen);
        judge(words, both, case, told)?;
    }
    if case.resp3 {
        let direct: Vec<&[u8]> = replies.iter().map(|[direct, _]| &direct[..]).collect();
        rewriting::judge_all(&commands, &direct)?;
    }
    if told == Told::Alone && matches!(class_of(last), Class::Read | Class::Mget) {
        warm(bench, ways, case, last, seen)?;
    }
    Ok(())
}

fn note(words: &[String], [direct, _]: &Both, seen: &mut Seen) {
    let replies = seen.rows.entry(of_row(words, |row, _| row.name)).or_default();
    replies.errors |= direct.starts_with(b"-");
    replies.values |= !direct.starts_with(b"-") && !direct.starts_with(b"+QUEUED");
}

/// Reads until the reply comes from the cache; an error never does.
fn warm(bench: &mut Bench, ways: &mut Ways, case: &Case, last: &[String], seen: &mut Seen) -> Result<(), String> {
    let mut again = || {
        let replies = ways.tell(&[last.to_vec()])?;
        judge(last, &replies[0], case, Told::Alone)?;
        Ok::<bool, String>(replies[0][0].starts_with(b"-"))
    };
    let is_error = again()? && again()?;
    if is_error || NOT_KEPT.iter().any(|(line, _)| *line == case.line) {
        again()?;
        return if bench.has_hit() { Err("is served from the cache".into()) } else { Ok(()) };
    }
    let mut outcome = Ok(false);
    let hit = holds_within(PATIENCE, || {
        outcome = again();
        outcome.is_err() || bench.has_hit()
    });
    outcome?;
    seen.hits.insert(of_row(last, |row, _| row.name));
    if hit { Ok(()) } else { Err("is never served from the cache".into()) }
}

/// Whether both replies are the same, but for what varies.
fn judge(words: &[String], [direct, through]: &Both, case: &Case, told: Told) -> Result<(), String> {
    let queued = case.commands.last();
    let rows = [words, queued.map_or(words, |last| &last[..])].map(|words| of_row(words, |row, _| row));
    let differs = rows.iter().find_map(|row| DIFFERENCES.iter().find(|(name, ..)| *name == row.name));
    let how = match (case.how, differs) {
        (How::Bytes, Some(&(_, how, _))) => how,
        (how, _) => how,
    };
    if alike(how, direct, through) || told != Told::Alone && is_not_followed(rows[1]) && refuses(through) {
        return Ok(());
    }
    let both = [direct, through].map(|reply| show(reply));
    Err(format!("{}:\n  directly {:?}\n  through  {:?}", words.join(" "), both[0], both[1]))
}

/// Whether a command is refused in a transaction, since what it changes is kept by sidecache.
pub fn is_not_followed(row: &Row) -> bool {
    let local = row.class(&super::ways::NO_ARGS) == Class::Local;
    local && (matches!(row.name, "hello" | "auth") || row.name.starts_with("client|"))
}

fn refuses(reply: &[u8]) -> bool {
    reply.starts_with(b"-EXECABORT ") || String::from_utf8_lossy(reply).contains("' is not possible in a transaction")
}
