//! Configuration files: any text is a configuration or a list of faults, each with a place, and no password is shown.

use std::path::Path;

/// A password that stands in the file's place of `PASSWORD`, and must stand nowhere else.
const PASSWORD: &str = "s3cr3t-of-this-run";

/// Reads a file of this text.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let text = text.replace("PASSWORD", PASSWORD);
    let shown = match sidecache::config::check_file(Path::new("sidecache.toml"), |_| Ok(text.clone())) {
        Ok(config) => config.summary(),
        Err(faults) => {
            let shown = faults.to_string();
            assert!(!shown.trim().is_empty(), "refused without a reason");
            shown
        }
    };
    // In another place it is no password, and is quoted back.
    let settings = [format!("password = \"{PASSWORD}\""), format!("url = \"redis://app:{PASSWORD}@")];
    let is_one = text.lines().any(|line| settings.iter().any(|setting| line.starts_with(setting)));
    let elsewhere = text.matches(PASSWORD).count() > 1;
    assert!(!is_one || elsewhere || !shown.contains(PASSWORD), "a password is shown:\n{shown}");
}
