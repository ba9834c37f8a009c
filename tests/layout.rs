//! The house rules that a machine can check: files, names, who may use whom, what stays pure.
//!
//! Each rule names the place and the reason, so that a red test reads as a review remark. The rules look at text,
//! not at syntax: comments are left out, and so is what stands below `#[cfg(test)]`.
#![allow(clippy::unwrap_used, reason = "a rule that cannot read a file must say so loudly")]

use std::fs;
use std::path::{Path, PathBuf};

/// The parts in the order of a command's way: each uses only those on earlier lines; one line's are ignorant of
/// each other.
const ORDER: [&[&str]; 13] = [
    &["switch", "telemetry"],
    &["protocol", "limits", "net"],
    &["command"],
    &["cache", "upstream"],
    &["coherence"],
    &["error"],
    &["dispatch"],
    &["client"],
    &["discovery"],
    &["admin"],
    &["config"],
    &["proxy"],
    &["main"],
];

/// Among the parts of one line these pairs may be used: the parser keeps to the limits.
const SAME_LINE: [(&str, &str); 1] = [("protocol", "limits")];

/// No tokio, no clock: `now` is an argument.
const PURE: [&str; 9] = [
    "protocol/",
    "command/",
    "cache/generation",
    "cache/lease",
    "cache/admission",
    "upstream/backoff",
    "upstream/slots",
    "upstream/url",
    "client/one_node",
];

/// Names that say nothing about what is in the file.
const EMPTY_NAMES: [&str; 8] = ["utils", "util", "common", "helpers", "helper", "types", "misc", "manager"];

/// More does not fit in a reader's head at once; aim at 150 to 300.
const MAX_LINES: usize = 500;

/// A source file, its path relative to the folder that was walked.
struct File {
    path: String,
    text: String,
    /// The whole file is a test: its parent declares it under `#[cfg(test)]`.
    is_test: bool,
}

impl File {
    /// The part that a file of `src` belongs to: the first word of its path.
    fn part(&self) -> &str {
        self.path.split(['/', '.']).next().unwrap_or_default()
    }

    /// Numbered lines of code: no comments, nothing of test modules.
    fn code(&self) -> Vec<(usize, &str)> {
        let end = if self.is_test { 0 } else { test_module(&self.text).unwrap_or(usize::MAX) };
        let lines = self.text.lines().enumerate().take_while(|(at, _)| *at < end);
        lines.map(|(at, line)| (at + 1, without_comment(line))).filter(|(_, line)| !line.trim().is_empty()).collect()
    }

    /// `path:line: remark` for each line of code that `is_wrong`.
    fn remarks(&self, remark: &str, is_wrong: impl Fn(&str) -> bool) -> Vec<String> {
        let wrong = self.code().into_iter().filter(|(_, line)| is_wrong(line));
        wrong.map(|(at, line)| format!("{}:{at}: {remark}: {}", self.path, line.trim())).collect()
    }
}

/// The first line of `#[cfg(test)] mod … {`; by the house's order of a file nothing follows it.
fn test_module(text: &str) -> Option<usize> {
    let lines: Vec<&str> = text.lines().collect();
    let opens = |line: &&str| line.trim_start().starts_with("mod ") && line.ends_with('{');
    (0..lines.len()).find(|&at| lines[at].trim() == "#[cfg(test)]" && lines[at + 1..].iter().take(3).any(opens))
}

/// The modules that a file declares as `#[cfg(test)] mod name;`.
fn test_files(text: &str) -> Vec<&str> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let pairs = lines.windows(2).filter(|pair| pair[0] == "#[cfg(test)]");
    pairs.filter_map(|pair| pair[1].strip_prefix("mod ")?.strip_suffix(';')).collect()
}

/// Where a module declared in `path` lies, without `.rs`: `cache/mod.rs` and `cache.rs` both keep `x` in `cache/x`.
fn module_path(path: &str, module: &str) -> String {
    let folder = path.trim_end_matches(".rs").trim_end_matches("/mod");
    if matches!(folder, "lib" | "main" | "mod") { module.to_string() } else { format!("{folder}/{module}") }
}

/// The line up to `//`, unless that stands in a string (`redis://`).
fn without_comment(line: &str) -> &str {
    let mut quoted = false;
    let mut escaped = false;
    for (at, c) in line.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' if !line[..at].ends_with('\'') || quoted => quoted = !quoted,
            '/' if !quoted && line[at..].starts_with("//") => return &line[..at],
            _ => {}
        }
    }
    line
}

/// All .rs files below a folder of the repository.
fn files(folder: &str) -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut found = Vec::new();
    let mut open = vec![root.clone()];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
            found.push(File { path: name, text: fs::read_to_string(&path).unwrap(), is_test: false });
        }
    }
    let declared = |file: &File| -> Vec<String> {
        test_files(&file.text).into_iter().map(|module| module_path(&file.path, module)).collect()
    };
    let tests: Vec<String> = found.iter().flat_map(declared).collect();
    for file in &mut found {
        let name = file.path.trim_end_matches(".rs");
        file.is_test = tests.iter().any(|test| name == test || name.starts_with(&format!("{test}/")));
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

#[track_caller]
fn assert_none(remarks: &[String]) {
    assert!(remarks.is_empty(), "\n{}", remarks.join("\n"));
}

/// The parts that a line names as `crate::part` or `sidecache::part`, also in `use crate::{a, b::c}`.
fn parts_used(text: &str) -> Vec<(usize, String)> {
    let mut used = Vec::new();
    for root in ["crate::", "sidecache::"] {
        for (at, _) in text.match_indices(root) {
            let before = text[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let line = text[..at].matches('\n').count() + 1;
            let rest = &text[at + root.len()..];
            match rest.strip_prefix('{') {
                Some(group) => used.extend(group_heads(group).into_iter().map(|part| (line, part))),
                None => used.push((line, word(rest))),
            }
        }
    }
    used
}

/// The first words of a use group's members: `a, b::{c, d}}` gives a and b.
fn group_heads(group: &str) -> Vec<String> {
    let mut heads = vec![word(group.trim_start())];
    let mut depth = 1;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => heads.push(word(group[at + 1..].trim_start())),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    heads.retain(|head| !head.is_empty());
    heads
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The line of `ORDER` that a part stands on.
fn place(part: &str) -> Option<usize> {
    ORDER.iter().position(|line| line.contains(&part))
}

fn may_use(user: &str, used: &str) -> bool {
    match (place(user), place(used)) {
        (Some(at), Some(of)) => user == used || of < at || SAME_LINE.contains(&(user, used)),
        _ => true,
    }
}

#[test]
fn every_file_begins_with_its_header() {
    let all = ["src", "tests", "benches"].into_iter().filter(|folder| Path::new(folder).exists()).flat_map(files);
    let wrong = all.filter(|file| !file.text.starts_with("//!"));
    assert_none(&wrong.map(|file| format!("{}: begins without //!", file.path)).collect::<Vec<_>>());
}

#[test]
fn no_file_is_too_long() {
    let all = ["src", "tests"].into_iter().flat_map(files);
    let long = all.filter(|file| file.text.lines().count() > MAX_LINES);
    assert_none(&long.map(|file| format!("{}: more than {MAX_LINES} lines", file.path)).collect::<Vec<_>>());
}

#[test]
fn every_file_is_named_for_what_is_in_it() {
    let empty = |file: &File| {
        let path = PathBuf::from(&file.path);
        path.with_extension("").components().any(|part| EMPTY_NAMES.iter().any(|name| part.as_os_str() == *name))
    };
    let wrong = files("src").into_iter().filter(empty);
    assert_none(&wrong.map(|file| format!("{}: the name says nothing", file.path)).collect::<Vec<_>>());
}

#[test]
fn no_integration_test_is_forgotten() {
    let all = files("tests/integration");
    let main = &all.iter().find(|file| file.path == "main.rs").unwrap().text;
    let chapters = all.iter().filter(|file| !file.path.contains('/') && file.path != "main.rs");
    let forgotten = chapters.filter(|file| !main.contains(&format!("\nmod {};", file.path.trim_end_matches(".rs"))));
    assert_none(&forgotten.map(|file| format!("{}: main.rs does not declare it", file.path)).collect::<Vec<_>>());
}

#[test]
fn every_part_has_its_place_in_the_order() {
    let wrong = files("src").into_iter().filter(|file| file.part() != "lib" && place(file.part()).is_none());
    assert_none(&wrong.map(|file| format!("{}: not in ORDER", file.path)).collect::<Vec<_>>());
}

#[test]
fn a_part_uses_only_those_before_it() {
    let mut remarks = Vec::new();
    for file in files("src").iter().filter(|file| file.part() != "lib") {
        let numbered = file.code();
        let code: Vec<&str> = numbered.iter().map(|(_, line)| *line).collect();
        for (at, used) in parts_used(&code.join("\n")) {
            if !may_use(file.part(), &used) {
                remarks.push(format!("{}:{}: {} may not use {used}", file.path, numbered[at - 1].0, file.part()));
            }
        }
    }
    assert_none(&remarks);
}

#[test]
fn what_is_pure_has_no_runtime_and_no_clock() {
    let banned = ["tokio", "Instant::now", "SystemTime::now", "boottime("];
    let pure = files("src").into_iter().filter(|file| PURE.iter().any(|prefix| file.path.starts_with(prefix)));
    let wrong = pure.flat_map(|file| file.remarks("not pure", |line| banned.iter().any(|word| line.contains(word))));
    assert_none(&wrong.collect::<Vec<_>>());
}

#[test]
fn texts_of_errors_stand_in_one_file() {
    let allowed = |file: &File| file.part() == "error" || file.part() == "protocol";
    let wrong = files("src").into_iter().filter(|file| !allowed(file)).flat_map(|file| {
        file.remarks("belongs into error.rs", |line| line.contains("\"-ERR") || line.contains("\"ERR "))
    });
    assert_none(&wrong.collect::<Vec<_>>());
}

#[test]
fn nothing_unwraps_outside_tests() {
    let banned = [".unwrap()", ".expect(\"", "panic!(", "unreachable!(", "todo!(", "unimplemented!("];
    let wrong = files("src").into_iter();
    let wrong = wrong.flat_map(|file| file.remarks("panics", |line| banned.iter().any(|word| line.contains(word))));
    assert_none(&wrong.collect::<Vec<_>>());
}

#[test]
fn tests_wait_for_conditions_and_do_not_sleep() {
    let allowed = ["integration/support/wait.rs", "integration/support/link.rs", "layout.rs"];
    let sleeps = |line: &str| line.contains("sleep(") && !line.contains("SLEEP");
    let mut remarks = Vec::new();
    for file in files("tests").iter().filter(|file| !allowed.contains(&file.path.as_str())) {
        let lines = file.text.lines().map(without_comment).enumerate();
        let wrong = lines.filter(|(_, line)| sleeps(line));
        remarks.extend(wrong.map(|(at, line)| format!("tests/{}:{}: sleeps: {}", file.path, at + 1, line.trim())));
    }
    assert_none(&remarks);
}

#[test]
fn no_command_is_sent_by_a_connection_that_is_gone_at_once() {
    // Nobody knows when such a command is executed, nor whether it is.
    let mut remarks = Vec::new();
    for file in files("tests").iter().filter(|file| file.path != "layout.rs") {
        remarks.extend(file.remarks("the reply is never read", |line| line.contains("conn().send(")));
    }
    assert_none(&remarks);
}

#[test]
fn a_document_names_only_tests_that_exist() {
    let tests = files("tests");
    let path = |module: &str| format!("integration/{}", module.replace("::", "/"));
    let exists = |name: &str| match name.rsplit_once("::") {
        Some((module, "")) => tests.iter().any(|file| file.path == format!("{}.rs", path(module))),
        Some((module, test)) => {
            tests.iter().any(|file| file.path.starts_with(&path(module)) && file.text.contains(&format!("fn {test}(")))
        }
        None => true,
    };
    let document = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/promises.md")).unwrap();
    let named: Vec<&str> = document.split('`').skip(1).step_by(2).filter(|code| code.contains("::")).collect();
    assert!(named.len() > 20, "{named:?}");
    let wrong: Vec<&&str> = named.iter().filter(|name| !exists(name)).collect();
    assert!(wrong.is_empty(), "docs/promises.md names tests that are not there: {wrong:#?}");
}

#[test]
fn a_todo_has_a_condition() {
    let marks = ["TODO", "FIXME", "XXX", "HACK"];
    let has_condition = |line: &str| ["TODO when ", "TODO once ", "TODO if "].iter().any(|word| line.contains(word));
    let mut remarks = Vec::new();
    for file in ["src", "tests"].into_iter().flat_map(files).filter(|file| file.path != "layout.rs") {
        let lines = file.text.lines().enumerate();
        let wrong = lines.filter(|(_, line)| marks.iter().any(|mark| has_word(line, mark)) && !has_condition(line));
        remarks.extend(wrong.map(|(at, line)| format!("{}:{}: no condition: {}", file.path, at + 1, line.trim())));
    }
    assert_none(&remarks);
}

#[test]
fn alerts_and_dashboards_name_metrics_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let known = fs::read_to_string(root.join("docs/metrics.md")).unwrap();
    let mut remarks = Vec::new();
    for file in ["deploy/prometheus/alerts.yaml", "deploy/grafana/sidecache.json", "README.md", "scripts/demo.sh"] {
        for name in metric_names(&fs::read_to_string(root.join(file)).unwrap()) {
            if !known.contains(&format!("`{}`", name.trim_end_matches("_bucket"))) {
                remarks.push(format!("{file}: {name} is not in docs/metrics.md"));
            }
        }
    }
    assert_none(&remarks);
}

#[test]
fn every_rule_with_a_switch_is_asked_for_and_a_test_is_known_to_notice_its_absence() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    let (switch, script, table) = (read("src/switch.rs"), read("scripts/mutants.py"), read("docs/mutants.md"));
    let tests: String = ["src", "tests"].into_iter().flat_map(files).map(|file| file.text).collect();
    let code: String = files("src").iter().flat_map(|file| file.code()).map(|(_, line)| format!("{line}\n")).collect();
    let rules: Vec<&str> = switch.lines().filter_map(|line| line.strip_prefix("    ")?.strip_suffix(',')).collect();
    let rules = rules.into_iter().filter(|rule| word(rule) == *rule);
    let mut remarks = Vec::new();
    for rule in rules {
        let row = table.lines().find(|line| line.starts_with(&format!("| `{rule}` |")));
        let test = row.and_then(|row| row.split('|').nth(3)).unwrap_or_default();
        let test = word(test.trim().trim_matches('`').rsplit("::").next().unwrap_or_default());
        let asked = code.contains(&format!("on(Rule::{rule})"));
        let known = script.contains(&format!("\"{rule}\": [")) && tests.contains(&format!("fn {test}("));
        if test.is_empty() || !asked || !known {
            remarks.push(format!("{rule}: asked for {asked}, in the script and noticed by a test {known}: {row:?}"));
        }
    }
    assert_none(&remarks);
}

/// All words of the text that look like a metric of ours.
fn metric_names(text: &str) -> Vec<&str> {
    let words = text.split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit() && c != '_');
    words.filter(|word| word.starts_with("sidecache_")).collect()
}

/// Whether `mark` stands in the line as a word of its own.
fn has_word(line: &str, mark: &str) -> bool {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == mark)
}

#[test]
fn the_rules_see_what_they_look_for() {
    assert_eq!(without_comment("let a = \"redis://x\"; // why"), "let a = \"redis://x\"; ");
    assert_eq!(without_comment("b'\"' => 1, // why"), "b'\"' => 1, ");
    assert_eq!(test_module("fn a() {}\n#[cfg(test)]\nmod tests {\n}\n"), Some(1));
    assert_eq!(test_module("#[cfg(test)]\nmod a;\nfn a() {}\nmod b {}\n"), None);
    assert_eq!(test_files("mod b;\n#[cfg(test)]\nmod a;\n"), ["a"]);
    assert_eq!(module_path("cache/mod.rs", "tests"), "cache/tests");
    assert_eq!(module_path("net.rs", "tests"), "net/tests");
    let used: Vec<String> = parts_used("use crate::{net, cache::{Entry, store}};\nlet a = crate::error::Error;")
        .into_iter()
        .map(|u| u.1)
        .collect();
    assert_eq!(used, ["net", "cache", "error"]);
    assert!(may_use("cache", "command") && may_use("protocol", "limits") && may_use("config", "cache"));
    assert!(!may_use("cache", "upstream") && !may_use("upstream", "cache") && !may_use("net", "protocol"));
    assert!(!may_use("dispatch", "client"));
    assert!(has_word("// TODO: later", "TODO") && !has_word("TODOS", "TODO"));
}
