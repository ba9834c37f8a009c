//! Rules per key pattern: no caching, another mode, a shorter life. The first that matches decides.

use super::config::{Config, Mode};

/// What holds for one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// How its entries are kept right.
    pub mode: Mode,
    /// How long they live at most, in nanoseconds.
    pub max_age: u64,
}

/// The configuration's rules, in order.
pub struct Rules {
    rules: Vec<(Box<[u8]>, Ruling)>,
    otherwise: Ruling,
}

impl Rules {
    /// The rules of a configuration.
    pub fn new(config: &Config) -> Self {
        let nanos = |age: std::time::Duration| u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
        let otherwise = Ruling { mode: config.mode, max_age: nanos(config.max_age) };
        let rules = config.rules.iter().map(|rule| {
            let ruling = Ruling {
                mode: rule.mode.unwrap_or(config.mode),
                max_age: rule.max_age.map_or(otherwise.max_age, |age| nanos(age).min(otherwise.max_age)),
            };
            (rule.pattern.as_bytes().into(), ruling)
        });
        Rules { rules: rules.collect(), otherwise }
    }

    /// Whether any key's entries are kept right by age alone.
    pub fn any_by_age(&self) -> bool {
        let by_age = |ruling: &Ruling| ruling.mode == Mode::Ttl;
        by_age(&self.otherwise) || self.rules.iter().any(|(_, ruling)| by_age(ruling))
    }

    /// What holds for `key`.
    pub fn of(&self, key: &[u8]) -> Ruling {
        self.rules.iter().find(|(pattern, _)| matches(pattern, key)).map_or(self.otherwise, |(_, ruling)| *ruling)
    }
}

/// Redis's glob (stringmatchlen of util.c): `*`, `?`, `[abc]`, `[^a-z]`, `\x`.
/// Iterative with one remembered star, so no pattern takes exponential time.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p + 1, t));
            p += 1;
            continue;
        }
        if let Some(length) = matches_one(&pattern[p.min(pattern.len())..], text[t]) {
            p += length;
            t += 1;
            continue;
        }
        let Some((after, from)) = star else { return false };
        star = Some((after, from + 1));
        p = after;
        t = from + 1;
    }
    pattern[p.min(pattern.len())..].iter().all(|&byte| byte == b'*')
}

/// The length of the pattern's first element if it matches `byte`.
fn matches_one(pattern: &[u8], byte: u8) -> Option<usize> {
    match *pattern.first()? {
        b'?' => Some(1),
        b'\\' if pattern.len() > 1 => (pattern[1] == byte).then_some(2),
        b'[' => matches_class(pattern, byte),
        literal => (literal == byte).then_some(1),
    }
}

fn matches_class(pattern: &[u8], byte: u8) -> Option<usize> {
    let negated = pattern.get(1) == Some(&b'^');
    let mut i = if negated { 2 } else { 1 };
    let mut found = false;
    while let Some(&first) = pattern.get(i) {
        if first == b']' {
            break;
        }
        if first == b'\\' && i + 1 < pattern.len() {
            i += 1;
            found |= pattern[i] == byte;
        } else if pattern.get(i + 1) == Some(&b'-') && i + 2 < pattern.len() {
            let (low, high) = (first.min(pattern[i + 2]), first.max(pattern[i + 2]));
            found |= (low..=high).contains(&byte);
            i += 2;
        } else {
            found |= first == byte;
        }
        i += 1;
    }
    (found != negated).then_some((i + 1).min(pattern.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_redis_matches_keys() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("session:*", "session:1", true),
            ("session:*", "sessio", false),
            ("h?llo", "hello", true),
            ("h[ae]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("*a*b", "xxaxxab", true),
            ("a*", "b", false),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_hostile_pattern_takes_no_exponential_time() {
        assert!(!matches(&b"*a".repeat(2000), &b"a".repeat(1999)));
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let rule = |pattern: &str, mode, age: Option<u64>| super::super::Rule {
            pattern: pattern.into(),
            mode,
            max_age: age.map(std::time::Duration::from_secs),
        };
        let config = Config {
            rules: vec![
                rule("lock:*", Some(Mode::Off), None),
                rule("long:*", None, Some(3600)),
                rule("*", None, Some(5)),
            ],
            ..Config::default()
        };
        let rules = Rules::new(&config);
        assert_eq!(rules.of(b"lock:1").mode, Mode::Off);
        assert_eq!(rules.of(b"long:1").max_age, 60_000_000_000, "no rule lengthens a life");
        assert_eq!(rules.of(b"x"), Ruling { mode: Mode::Tracking, max_age: 5_000_000_000 });
    }
}
