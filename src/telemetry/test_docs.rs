//! For tests: documents that are made of the code.

/// Compares a document with what the code says it should be; `UPDATE_DOCS=1` writes it instead.
pub fn check(path: &str, expected: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        assert!(std::fs::write(&path, expected).is_ok(), "{} cannot be written", path.display());
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == expected, "{} is out of date: run UPDATE_DOCS=1 cargo test", path.display());
}
