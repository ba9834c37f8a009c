//! Redis's patterns, as PSUBSCRIBE has them (util.c, stringmatchlen): `*`, `?`, `[a-z]`, `[^a]`, and `\` before what is
//! meant as it is. Needed to tell which patterns a message reaches; no library has its corners.

/// Whether the pattern matches the whole name. Takes at most the product of both lengths in steps.
pub fn matches(pattern: &[u8], name: &[u8]) -> bool {
    if name.is_empty() {
        // Not even `*` matches it.
        return pattern.is_empty();
    }
    let (mut p, mut n) = (0, 0);
    // Where the last `*` stands, and how far the name was when it was met: it takes one byte more at each return.
    let mut star: Option<(usize, usize)> = None;
    loop {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, n));
            p += 1;
            continue;
        }
        let step = match name.get(n) {
            None if p == pattern.len() => return true,
            None => return false,
            Some(&byte) => one(pattern, p, byte),
        };
        match (step, star) {
            (Some(next), _) => (p, n) = (next, n + 1),
            (None, Some((at, taken))) => {
                star = Some((at, taken + 1));
                (p, n) = (at + 1, taken + 1);
            }
            (None, None) => return false,
        }
    }
}

/// Where the pattern goes on if what stands at `p` matches the byte.
fn one(pattern: &[u8], p: usize, byte: u8) -> Option<usize> {
    match pattern.get(p)? {
        b'?' => Some(p + 1),
        b'[' => set(pattern, p + 1, byte),
        b'\\' if pattern.len() - p >= 2 => (pattern.get(p + 1) == Some(&byte)).then_some(p + 2),
        literal => (*literal == byte).then_some(p + 1),
    }
}

/// As `one`, behind a `[`; one that is not closed ends with the pattern.
fn set(pattern: &[u8], mut p: usize, byte: u8) -> Option<usize> {
    let negated = pattern.get(p) == Some(&b'^');
    p += usize::from(negated);
    let mut found = false;
    loop {
        match (pattern.get(p), pattern.get(p + 1), pattern.get(p + 2)) {
            (Some(b'\\'), Some(&literal), _) => {
                found |= literal == byte;
                p += 2;
            }
            (Some(b']'), ..) => {
                p += 1;
                break;
            }
            (None, ..) => break,
            (Some(&from), Some(b'-'), Some(&to)) => {
                found |= (from.min(to)..=from.max(to)).contains(&byte);
                p += 3;
            }
            (Some(&literal), ..) => {
                found |= literal == byte;
                p += 1;
            }
        }
    }
    (found != negated).then_some(p)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_redis() {
        let yes = [
            ("*", "x"),
            ("", ""),
            ("h?llo", "hallo"),
            ("h*o", "heeeello"),
            ("a*b*c", "axbxbxc"),
            ("h[ae]llo", "hello"),
            ("h[^e]llo", "hallo"),
            ("h[a-c]llo", "hbllo"),
            ("h[c-a]llo", "hbllo"),
            ("\\*", "*"),
            ("[\\]]", "]"),
            ("a\\", "a\\"),
            ("[abc", "b"),
            ("**", "x"),
            ("a*", "a"),
        ];
        for (pattern, name) in yes {
            assert!(matches(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
        for (pattern, name) in
            [("a", ""), ("*", ""), ("", "a"), ("?", ""), ("a*b", "ac"), ("[^a]", "a"), ("\\*", "x"), ("a*", "ba")]
        {
            assert!(!matches(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
        let long = vec![b'a'; 10_000];
        assert!(!matches(b"*a*a*a*a*b", &long), "and it ends");
    }
}
