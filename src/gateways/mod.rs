//! What Souk says to the outside world, one folder a provider, each behind a port of the engine.
//!
//! A gateway speaks HTTP and nothing else: it holds no state that matters, decides nothing, and every answer it gives
//! is one of the few words of [`souk_actors::ports`].

mod http;
pub mod mail;
pub mod merchants;
pub mod paypal;
pub mod shippo;

use std::{fmt, sync::Arc};

use serde::Deserialize;

/// A password, key or token: cheap to pass on, and nothing that prints it prints more than three dots.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(Arc<str>);

impl Secret {
    /// The text itself, for the one header it belongs in.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A gateway cannot work with what it was configured with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {problem}")]
pub struct SettingsError {
    /// Which setting, by its name.
    pub setting: &'static str,
    /// What is wrong with it, for whoever wrote it.
    pub problem: String,
}

impl SettingsError {
    fn new(setting: &'static str, problem: impl Into<String>) -> Self {
        Self { setting, problem: problem.into() }
    }
}
