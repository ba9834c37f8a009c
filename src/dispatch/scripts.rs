//! Scripts that have come through this process, so that EVALSHA finds them on every node of a cluster.
//!
//! A script is known to the nodes that it was loaded into or run on. An application that sees one Redis may rightly expect
//! EVALSHA to find it at any key: where a node does not know it, EVAL is sent in EVALSHA's place. *Invariant:* bounded;
//! what is not known here is answered by upstream's NOSCRIPT, and then the application sends the script again.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;

use crate::limits::AUTHENTICATED;
use crate::protocol::{Args, RequestParser, encode};

/// Most bytes of scripts kept.
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// Longest script that is kept.
const SCRIPT_MAX: usize = 64 * 1024;

/// Scripts by the hash that EVALSHA calls them by; all workers share them.
#[derive(Default)]
pub struct Scripts {
    known: Mutex<Known>,
    /// For knowing a script again without its SHA-1.
    seed: foldhash::fast::RandomState,
}

#[derive(Default)]
struct Known {
    by_sha: HashMap<String, Arc<[u8]>>,
    quick: HashSet<u64>,
    /// The quick hash and the SHA-1 of each, oldest first.
    order: VecDeque<(u64, String)>,
    bytes: usize,
}

// === impl Scripts ===

impl Scripts {
    /// A script is about to be loaded or run.
    pub fn note(&self, script: &[u8]) {
        let quick = self.seed.hash_one(script);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if script.len() > SCRIPT_MAX || !known.quick.insert(quick) {
            return;
        }
        let sha = sha1_smol::Sha1::from(script).digest().to_string();
        known.bytes += script.len();
        known.by_sha.insert(sha.clone(), script.into());
        known.order.push_back((quick, sha));
        while known.bytes > BYTES_MAX {
            let Some((hash, oldest)) = known.order.pop_front() else { return };
            known.quick.remove(&hash);
            known.bytes -= known.by_sha.remove(&oldest).map_or(0, |script| script.len());
        }
    }

    /// SCRIPT FLUSH: upstream knows none any more.
    pub fn forget(&self) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Known::default();
    }

    /// EVAL with the script that an EVALSHA calls; `None`: it is no EVALSHA, or the script is not known.
    pub fn spelt_out(&self, request: &[u8]) -> Option<BytesMut> {
        let mut parser = RequestParser::default();
        parser.parse(request, &AUTHENTICATED).ok()?;
        let args = Args { raw: request, ranges: parser.ranges() };
        let name: &[u8] = match args.get(0)?.to_ascii_lowercase().as_slice() {
            b"evalsha" => b"EVAL",
            b"evalsha_ro" => b"EVAL_RO",
            _ => return None,
        };
        let sha = std::str::from_utf8(args.get(1)?).ok()?.to_ascii_lowercase();
        let script = self.known.lock().unwrap_or_else(PoisonError::into_inner).by_sha.get(&sha).cloned()?;
        let mut words: Vec<&[u8]> = vec![name, &script];
        words.extend((2..args.len()).filter_map(|i| args.get(i)));
        let mut spelt = BytesMut::new();
        encode::request(&mut spelt, &words);
        Some(spelt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(words: &[&str]) -> BytesMut {
        let mut request = BytesMut::new();
        encode::request(&mut request, words);
        request
    }

    #[test]
    fn a_script_that_has_come_by_is_spelt_out_for_who_calls_it() {
        let scripts = Scripts::default();
        // SHA-1 of "return 1", as SCRIPT LOAD tells it.
        let sha = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db";
        assert_eq!(scripts.spelt_out(&request(&["EVALSHA", sha, "0"])), None);
        scripts.note(b"return 1");
        scripts.note(b"return 1");
        let spelt = scripts.spelt_out(&request(&["evalsha", &sha.to_uppercase(), "1", "k", "v"]));
        assert_eq!(spelt, Some(request(&["EVAL", "return 1", "1", "k", "v"])));
        assert_eq!(scripts.spelt_out(&request(&["GET", sha])), None);
        scripts.forget();
        assert_eq!(scripts.spelt_out(&request(&["EVALSHA", sha, "0"])), None);
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        let scripts = Scripts::default();
        let script = |n: usize| format!("return {n} --{}", "x".repeat(SCRIPT_MAX - 100)).into_bytes();
        (0..100).for_each(|n| scripts.note(&script(n)));
        let known = scripts.known.lock().unwrap();
        assert!(known.bytes <= BYTES_MAX && known.by_sha.len() == known.order.len());
        assert!(known.by_sha.contains_key(&sha1_smol::Sha1::from(script(99)).digest().to_string()));
    }
}
