//! What is wrong with a configuration, and where it was said.
//!
//! All faults are told at once. Invariant: a fault never repeats a value that may be secret.

use std::fmt;

/// Where a setting was made. Later variants overrule earlier ones.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// In the configuration file.
    File {
        /// The file's name as it was given.
        name: String,
        /// Counted from 1; 0: the file as a whole.
        line: usize,
    },
    /// In an environment variable.
    Environment(&'static str),
    /// By a flag, `--` included.
    Flag(String),
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// Where it was said; `None`: nowhere, it is missing.
    pub origin: Option<Origin>,
    /// The key, dotted (`cache.max_age`); empty: no key in particular.
    pub key: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

/// All that is wrong, in the order of the file, then environment, then flags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl std::error::Error for Faults {}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { name, line: 0 } => write!(f, "{name}"),
            Origin::File { name, line } => write!(f, "{name}:{line}"),
            Origin::Environment(variable) => write!(f, "{variable}"),
            Origin::Flag(flag) => write!(f, "{flag}"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.problem)
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|fault| writeln!(f, "{fault}"))
    }
}

/// The word that was probably meant, if one is near enough to what was typed.
pub fn nearest<'a>(typed: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let (steps, word) = words.into_iter().map(|word| (distance(typed, word), word)).min()?;
    (steps <= 1 + word.len() / 5).then_some(word)
}

/// Characters to insert, delete or replace to make one word of the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(&b) {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = *cell;
            left = replaced.min(left + 1).min(diagonal + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_single_edits() {
        for (a, b, steps) in [("", "abc", 3), ("abc", "", 3), ("cache", "cahce", 2), ("pool", "pols", 2), ("x", "x", 0)]
        {
            assert_eq!(distance(a, b), steps, "{a} {b}");
        }
    }

    #[test]
    fn only_a_near_word_is_suggested() {
        let words = ["max_age", "max_staleness", "bytes"];
        assert_eq!(nearest("max_stalenes", words), Some("max_staleness"));
        assert_eq!(nearest("byte", words), Some("bytes"));
        assert_eq!(nearest("colour", words), None);
    }

    #[test]
    fn a_fault_says_where_which_and_what() {
        let fault = |origin| Fault { origin, key: "threads".into(), problem: "is wrong".into() }.to_string();
        assert_eq!(fault(Some(Origin::File { name: "a.toml".into(), line: 3 })), "a.toml:3: threads: is wrong");
        assert_eq!(fault(Some(Origin::Environment("SIDECACHE_X"))), "SIDECACHE_X: threads: is wrong");
        assert_eq!(fault(None), "threads: is wrong");
    }
}
