//! As whom we speak to upstream: user, password, and where they come from.
//!
//! *Invariant:* a password is never shown: not by Debug, not by Display, not in an error.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::Config;

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Secret(String);

/// An upstream user with its password. Both empty: no AUTH is sent. An empty user with a password is
/// the one-argument `AUTH password` (upstream answers it otherwise than `AUTH default password`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Identity {
    /// The user; empty: none is named.
    pub user: String,
    /// Its password.
    pub password: Secret,
}

/// Where the configured identity comes from; asked at each connect, so that a password can be rotated.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Credentials {
    /// The user and the password of the configuration or the URL.
    fixed: Identity,
    /// A file that holds the password; it wins over the fixed one.
    password_file: Option<PathBuf>,
}

// === impl Secret ===

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text itself; only for what is written to upstream.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

// === impl Identity ===

impl Identity {
    /// A user with a password.
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> Identity {
        Identity { user: user.into(), password: Secret::new(password) }
    }

    /// Whether nothing is to be authenticated.
    pub fn is_anonymous(&self) -> bool {
        self.user.is_empty() && self.password.is_empty()
    }
}

// === impl Credentials ===

impl Credentials {
    /// The configuration's; where it is silent, the URL's.
    pub fn new(config: &Config, url: &Identity) -> Credentials {
        let user = if config.user.is_empty() { url.user.clone() } else { config.user.clone() };
        let password =
            if config.password.is_empty() { url.password.clone() } else { Secret::new(config.password.clone()) };
        Credentials { fixed: Identity { user, password }, password_file: config.password_file.clone() }
    }

    /// The identity as it is at this moment. Reads a small local file, which is not worth a thread.
    ///
    /// # Errors
    /// If the password file cannot be read or is not UTF-8; the error names the file.
    pub fn identity(&self) -> io::Result<Identity> {
        let Some(path) = &self.password_file else { return Ok(self.fixed.clone()) };
        let text = std::fs::read_to_string(path)
            .map_err(|error| io::Error::new(error.kind(), format!("password file {}: {error}", path.display())))?;
        let password = text.strip_suffix('\n').unwrap_or(&text);
        let password = password.strip_suffix('\r').unwrap_or(password);
        Ok(Identity { user: self.fixed.user.clone(), password: Secret::new(password) })
    }
}

/// An identity that a client gave by AUTH: fixed, whatever the configuration says.
impl From<Identity> for Credentials {
    fn from(fixed: Identity) -> Credentials {
        Credentials { fixed, password_file: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        let identity = Identity::new("app", "hunter2");
        assert!(!format!("{identity:?} {}", identity.password).contains("hunter2"));
        assert_eq!(identity.password.reveal(), "hunter2");
    }

    #[test]
    fn the_configuration_wins_over_the_url_and_the_file_over_both() {
        let url = Identity::new("from-url", "url-secret");
        let mut config = Config::default();
        assert_eq!(Credentials::new(&config, &url).identity().unwrap(), url);
        config.user = "app".into();
        config.password = "fixed".into();
        assert_eq!(Credentials::new(&config, &url).identity().unwrap(), Identity::new("app", "fixed"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        std::fs::write(&path, " rotated \n").unwrap();
        config.password_file = Some(path.clone());
        let credentials = Credentials::new(&config, &url);
        assert_eq!(credentials.identity().unwrap(), Identity::new("app", " rotated "));
        std::fs::write(&path, "again").unwrap();
        assert_eq!(credentials.identity().unwrap(), Identity::new("app", "again"));
        std::fs::remove_file(&path).unwrap();
        assert!(credentials.identity().unwrap_err().to_string().contains("password file"));
    }
}
