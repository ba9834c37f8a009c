//! How values are written: numbers, durations (`"250ms"`), sizes (`"64MiB"`), words and lists.
//!
//! In a file a value has TOML's type; in the environment and on the command line all is text.

use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

use super::fault::nearest;
use crate::cache::{Mget, Mode};
use crate::telemetry::log::Format;
use crate::upstream::config::{CrossSlot, ReadFrom};

/// Units of durations, longest name first where one ends with another.
const DURATIONS: [(&str, u64); 5] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
/// Units of sizes.
const SIZES: [(&str, u64); 4] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("B", 1)];
/// No duration is longer, so that sums of times cannot overflow.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Something that can be set. Errors say what would be right.
pub trait Value: Sized {
    /// From a file.
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String>;

    /// From the environment or a flag.
    fn from_text(text: &str) -> Result<Self, String>;

    /// From a flag that may be repeated: the last one counts, unless it is a list.
    fn from_texts(texts: &[String]) -> Result<Self, String> {
        Self::from_text(texts.last().map_or("", String::as_str))
    }
}

/// A number of bytes.
pub struct Size(pub u64);

/// Words that stand for the variants of an enum.
macro_rules! words {
    ($name:ident { $($word:literal => $variant:ident),+ }) => {
        impl Value for $name {
            fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
                Self::from_text(text_of(value, concat!("one of", $(" `", $word, "`",)+))?)
            }

            fn from_text(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok($name::$variant),)+
                    _ => Err(unknown_word(text, &[$($word),+])),
                }
            }
        }
    };
}

words!(Mode { "tracking" => Tracking, "ttl" => Ttl, "off" => Off });
words!(Mget { "snapshot" => Snapshot, "split" => Split });
words!(ReadFrom {
    "master" => Master,
    "replica" => Replica,
    "prefer-replica" => PreferReplica,
    "nearest" => Nearest
});
words!(CrossSlot { "split" => Split, "error" => Error });
words!(Format { "text" => Text, "json" => Json });

/// Whole numbers.
macro_rules! numbers {
    ($($name:ty),+) => {$(
        impl Value for $name {
            fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
                integer(value).and_then(|n| n.try_into().ok()).ok_or_else(|| wanted("a whole number", value))
            }

            fn from_text(text: &str) -> Result<Self, String> {
                text.trim().parse().map_err(|_| format!("wants a whole number, not `{text}`"))
            }
        }
    )+};
}

numbers!(u32, u64, usize);

impl Value for bool {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        value.as_bool().ok_or_else(|| wanted("true or false", value))
    }

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "true" | "yes" | "1" => Ok(true),
            "false" | "no" | "0" => Ok(false),
            _ => Err(format!("wants true or false, not `{text}`")),
        }
    }
}

impl Value for String {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        Ok(text_of(value, "text in quotes")?.to_owned())
    }

    fn from_text(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
}

impl Value for PathBuf {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        Ok(text_of(value, "a path in quotes")?.into())
    }

    fn from_text(text: &str) -> Result<Self, String> {
        Ok(text.into())
    }
}

impl Value for Vec<String> {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let list = value.as_array().ok_or_else(|| wanted("a list such as [\"a\", \"b\"]", value))?;
        list.iter().map(|element| String::from_toml(element.get_ref())).collect()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        Ok(text.split(',').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect())
    }

    fn from_texts(texts: &[String]) -> Result<Self, String> {
        Ok(texts.iter().flat_map(|text| Self::from_text(text)).flatten().collect())
    }
}

impl Value for Duration {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        Self::from_text(text_of(value, "a duration such as \"250ms\", \"1s\" or \"5m\"")?)
    }

    fn from_text(text: &str) -> Result<Self, String> {
        let millis = with_unit(text, &DURATIONS);
        let millis =
            millis.ok_or_else(|| format!("wants a duration such as \"250ms\", \"1s\" or \"5m\", not `{text}`"))?;
        Some(Duration::from_millis(millis)).filter(|d| *d <= LONGEST).ok_or_else(|| "is too long".to_owned())
    }
}

impl Value for Size {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        if let Some(bytes) = integer(value) {
            return bytes.try_into().map(Size).map_err(|_| "is too large or negative".to_owned());
        }
        Self::from_text(text_of(value, "a size such as \"64MiB\", \"256KiB\" or a number of bytes")?)
    }

    fn from_text(text: &str) -> Result<Self, String> {
        let bytes = with_unit(text, &SIZES).or_else(|| text.trim().parse().ok());
        bytes
            .map(Size)
            .ok_or_else(|| format!("wants a size such as \"64MiB\", \"256KiB\" or a number of bytes, not `{text}`"))
    }
}

impl<T: Value> Value for Option<T> {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        T::from_toml(value).map(Some)
    }

    fn from_text(text: &str) -> Result<Self, String> {
        T::from_text(text).map(Some)
    }
}

/// A duration as it would be written.
pub fn duration_text(duration: Duration) -> String {
    let millis = duration.as_millis();
    let fits = |(_, scale): &&(&str, u64)| millis > 0 && millis.is_multiple_of(u128::from(*scale));
    let (unit, scale) = DURATIONS.iter().rev().find(fits).unwrap_or(&("s", 1000));
    format!("{}{unit}", millis / u128::from(*scale))
}

/// A size as it would be written.
pub fn size_text(bytes: u64) -> String {
    let fits = |(_, scale): &&(&str, u64)| bytes.is_multiple_of(*scale) && bytes >= *scale;
    let (unit, scale) = SIZES.iter().filter(fits).max_by_key(|(_, scale)| *scale).unwrap_or(&("B", 1));
    format!("{}{unit}", bytes / scale)
}

/// A whole number followed by one of the units; `None` if it is not that, or too large.
fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let (unit, scale) = units.iter().find(|(unit, _)| text.ends_with(unit))?;
    let number = text.strip_suffix(unit)?.trim_end();
    // `parse` alone would take a plus sign.
    number.bytes().all(|b| b.is_ascii_digit()).then_some(())?;
    number.parse::<u64>().ok()?.checked_mul(*scale)
}

fn integer(value: &DeValue<'_>) -> Option<i128> {
    let integer = value.as_integer()?;
    i128::from_str_radix(integer.as_str(), integer.radix()).ok()
}

fn text_of<'a>(value: &'a DeValue<'_>, what: &str) -> Result<&'a str, String> {
    value.as_str().ok_or_else(|| wanted(what, value))
}

/// Names the type that was given, never the value: it may be a misplaced secret.
fn wanted(what: &str, value: &DeValue<'_>) -> String {
    match value {
        DeValue::Integer(number) => format!("wants {what}, not {number}"),
        other => format!("wants {what}, not a value of type {}", other.type_str()),
    }
}

fn unknown_word(typed: &str, words: &[&str]) -> String {
    let all: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
    match nearest(typed, words.iter().copied()) {
        Some(word) => format!("`{typed}` is none of {}; did you mean `{word}`?", all.join(", ")),
        None => format!("`{typed}` is none of {}", all.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn duration(text: &str) -> Option<u64> {
        Duration::from_text(text).ok().map(|d| d.as_millis() as u64)
    }

    fn size(text: &str) -> Option<u64> {
        Size::from_text(text).ok().map(|size| size.0)
    }

    #[test]
    fn durations_need_a_unit_and_no_sign() {
        assert_eq!([duration("250ms"), duration("1s"), duration("5m")], [Some(250), Some(1000), Some(300_000)]);
        assert_eq!([duration("2h"), duration("1d"), duration("0s")], [Some(7_200_000), Some(86_400_000), Some(0)]);
        for wrong in ["", "5", "s", "-1s", "+1s", "1.5s", "1 year", "99999999999999999999s", "99999999999d"] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sizes_are_bytes_or_binary_units() {
        assert_eq!([size("64MiB"), size("256KiB"), size("1GiB")], [Some(64 << 20), Some(256 << 10), Some(1 << 30)]);
        assert_eq!([size("12"), size("12B"), size("0")], [Some(12), Some(12), Some(0)]);
        for wrong in ["", "MiB", "64MB", "64mib", "-1", "1.5GiB", "99999999999GiB"] {
            assert_eq!(size(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        for millis in [0, 1, 250, 1000, 1500, 60_000, 90_000, 3_600_000, 86_400_000] {
            assert_eq!(duration(&duration_text(Duration::from_millis(millis))), Some(millis));
        }
        for bytes in [0, 1, 1023, 1024, 1 << 20, (1 << 20) + 1, 1 << 30] {
            assert_eq!(size(&size_text(bytes)), Some(bytes));
        }
        assert_eq!((duration_text(Duration::from_secs(90)), size_text(64 << 20)), ("90s".into(), "64MiB".into()));
    }

    #[test]
    fn a_misspelt_word_is_answered_with_the_right_one() {
        let problem = Mode::from_text("traking").unwrap_err();
        assert!(problem.ends_with("did you mean `tracking`?"), "{problem}");
    }

    #[test]
    fn lists_are_separated_by_commas_or_by_repeating_the_flag() {
        assert_eq!(Vec::<String>::from_texts(&["a, b".into(), "c".into()]).unwrap(), ["a", "b", "c"]);
    }
}
