//! Reads settings out of their layers: file, then environment, then flags, the later overruling.
//!
//! Invariant: reading never stops at a fault; it notes it with its place and goes on, so that
//! one run shows them all. Not here: which keys there are (`keys`), which values make sense
//! together (`check`).

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{Fault, Origin, nearest};
use super::value::{Size, Value};

/// A setting from outside the file.
#[derive(Clone, Debug)]
pub struct Override {
    /// The key, dotted.
    pub key: &'static str,
    /// Where it was made.
    pub origin: Origin,
    /// Its text; several if a flag was repeated.
    pub texts: Vec<String>,
}

/// What reading found besides the values.
#[derive(Debug, Default)]
pub struct Found {
    /// What is wrong.
    pub faults: Vec<Fault>,
    /// Where each key that was set was set last.
    pub origins: BTreeMap<String, Origin>,
    /// Every key there is, whether set or not; elements of lists without their number.
    pub keys: Vec<String>,
}

/// The file being read.
struct File<'a> {
    name: &'a str,
    text: &'a str,
    /// Where its syntax is wrong.
    broken: Vec<usize>,
}

/// One table of the file, or a place where one could be, and what overrules it.
pub struct Section<'r> {
    file: &'r File<'r>,
    overrides: &'r [Override],
    found: &'r mut Found,
    /// `None`: the file does not have it.
    table: Option<&'r DeTable<'r>>,
    /// Dotted, with a number for an element of a list (`cache.rules[0]`).
    path: String,
    known: Vec<&'static str>,
}

/// Reads a whole file: `read` names the keys. Syntax errors are faults like others.
pub fn read_all(name: &str, text: &str, overrides: &[Override], read: impl FnOnce(&mut Section<'_>)) -> Found {
    let (table, errors) = DeTable::parse_recoverable(text);
    let broken = errors.iter().map(|error| error.span().map_or(0, |span| span.start)).collect();
    let file = File { name, text, broken };
    let mut found = Found::default();
    let mut section = Section {
        file: &file,
        overrides,
        found: &mut found,
        table: Some(table.get_ref()),
        path: String::new(),
        known: Vec::new(),
    };
    read(&mut section);
    section.refuse_unknown();
    let syntax: Vec<Fault> = errors
        .iter()
        .map(|error| Fault {
            origin: Some(file.origin(error.span().map_or(0, |span| span.start))),
            key: String::new(),
            problem: error.message().to_owned(),
        })
        .collect();
    // What the parser made of a broken line is guesswork; its syntax error says enough.
    found.faults.retain(|fault| syntax.iter().all(|error| error.origin != fault.origin));
    found.faults.extend(syntax);
    found
}

// === impl Section ===

impl<'r> Section<'r> {
    /// Reads one key into its field; the field keeps its value if the key is not set or wrong.
    pub fn read<T: Value>(&mut self, key: &'static str, field: &mut T) {
        if let Some(value) = self.value(key) {
            *field = value;
        }
    }

    /// Reads a number of bytes.
    pub fn size<T: TryFrom<u64>>(&mut self, key: &'static str, field: &mut T) {
        let Some(Size(bytes)) = self.value(key) else { return };
        match T::try_from(bytes) {
            Ok(bytes) => *field = bytes,
            Err(_) => self.fault(key, "is too large for this machine"),
        }
    }

    /// Reads a table within this one.
    pub fn section(&mut self, key: &'static str, read: impl FnOnce(&mut Section<'_>)) {
        self.known.push(key);
        let table = self.entry(key).and_then(|value| {
            let table = value.get_ref().as_table();
            if table.is_none() {
                let origin = self.file.origin(value.span().start);
                self.note(Some(origin), key, format!("is a table: write [{}]", self.dotted(key)));
            }
            table
        });
        self.child(self.dotted(key), table, read);
    }

    /// Reads each table of a list of tables.
    pub fn each(&mut self, key: &'static str, mut read: impl FnMut(&mut Section<'_>)) {
        self.known.push(key);
        let Some(value) = self.entry(key) else { return };
        let tables = value.get_ref().as_array().into_iter().flat_map(|list| list.iter());
        let tables: Option<Vec<_>> =
            tables.map(|element| Some((element.span(), element.get_ref().as_table()?))).collect();
        match tables.filter(|_| value.get_ref().is_array()) {
            Some(tables) => {
                for (place, (span, table)) in tables.into_iter().enumerate() {
                    let path = format!("{}[{place}]", self.dotted(key));
                    self.found.origins.insert(path.clone(), self.file.origin(span.start));
                    self.child(path, Some(table), &mut read);
                }
            }
            None => {
                let origin = self.file.origin(value.span().start);
                self.note(Some(origin), key, format!("is a list of tables: write [[{}]]", self.dotted(key)));
            }
        }
    }

    /// The value of a key by the highest layer that sets it rightly.
    fn value<T: Value>(&mut self, key: &'static str) -> Option<T> {
        let dotted = self.dotted(key);
        self.known.push(key);
        self.found.keys.push(without_numbers(&dotted));
        let entry = self.entry(key).filter(|value| !self.file.is_broken(&value.span()));
        let in_file = entry.map(|value| (self.file.origin(value.span().start), T::from_toml(value.get_ref())));
        let outside = self.overrides.iter().filter(|setting| setting.key == dotted);
        let outside = outside.map(|setting| (setting.origin.clone(), T::from_texts(&setting.texts)));
        let mut highest = None;
        for (origin, value) in in_file.into_iter().chain(outside) {
            self.found.origins.insert(dotted.clone(), origin.clone());
            match value {
                Ok(value) => highest = Some(value),
                Err(problem) => self.found.faults.push(Fault { origin: Some(origin), key: dotted.clone(), problem }),
            }
        }
        highest
    }

    fn child(&mut self, path: String, table: Option<&DeTable<'_>>, read: impl FnOnce(&mut Section<'_>)) {
        let known = Vec::new();
        let (file, overrides) = (self.file, self.overrides);
        let mut section = Section { file, overrides, found: self.found, table, path, known };
        read(&mut section);
        section.refuse_unknown();
    }

    /// Every key of the table that nobody asked for is a fault.
    fn refuse_unknown(&mut self) {
        for key in self.table.into_iter().flat_map(|table| table.keys()) {
            let name: &str = key.get_ref();
            if self.known.contains(&name) {
                continue;
            }
            let problem = match nearest(name, self.known.iter().copied()) {
                Some(word) => format!("unknown key; did you mean `{word}`?"),
                None => format!("unknown key; known here: {}", self.known.join(", ")),
            };
            self.note(Some(self.file.origin(key.span().start)), name, problem);
        }
    }

    fn entry(&self, key: &str) -> Option<&'r Spanned<DeValue<'r>>> {
        self.table?.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value)
    }

    fn fault(&mut self, key: &str, problem: &str) {
        let origin = self.found.origins.get(&self.dotted(key)).cloned();
        self.note(origin, key, problem.to_owned());
    }

    fn note(&mut self, origin: Option<Origin>, key: &str, problem: String) {
        let key = self.dotted(key);
        self.found.faults.push(Fault { origin, key, problem });
    }

    fn dotted(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

// === impl File ===

impl File<'_> {
    /// Whether the syntax is wrong within a value: what is taken for it is guesswork then. Behind a bracket that was never
    /// closed even the password is, and would be shown as the value that is wrong.
    fn is_broken(&self, value: &Range<usize>) -> bool {
        self.broken.iter().any(|at| value.contains(at))
    }

    /// The line of a byte.
    fn origin(&self, at: usize) -> Origin {
        let before = self.text.as_bytes().iter().take(at);
        Origin::File { name: self.name.to_owned(), line: 1 + before.filter(|byte| **byte == b'\n').count() }
    }
}

/// `cache.rules[0].pattern` → `cache.rules.pattern`.
fn without_numbers(path: &str) -> String {
    path.split('.').map(|part| part.split('[').next().unwrap_or(part)).collect::<Vec<_>>().join(".")
}
