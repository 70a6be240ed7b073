//! What the relay has taken: kept on disk before the sender is told so.

use std::{
    fs, io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::{DateTime, Utc};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde::{Deserialize, Serialize};
use tokio_rustls::{TlsAcceptor, rustls};

use super::{Settings, faults::Faults};
use crate::sandbox::{bank, journal::Journal, signing};

pub(in crate::sandbox) struct Relay {
    pub(super) house: bank::Shared,
    pub(super) settings: Settings,
    pub(super) faults: Faults,
    pub(super) tls: TlsAcceptor,
    mailbox: Mutex<Mailbox>,
    journal: Journal,
}

/// A message as it was taken.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Letter {
    pub(super) id: u64,
    pub(super) received: DateTime<Utc>,
    pub(super) envelope: Envelope,
    /// Whether the connection was encrypted, and who had logged in.
    pub(super) tls: bool,
    pub(super) user: Option<String>,
    #[serde(with = "in_base64")]
    pub(super) raw: Vec<u8>,
}

/// Who sends to whom, whatever the message says of it.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct Envelope {
    pub(super) from: String,
    pub(super) to: Vec<String>,
}

/// A line of the journal.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Change {
    Kept(Arc<Letter>),
    Emptied,
}

#[derive(Default)]
struct Mailbox {
    letters: Vec<Arc<Letter>>,
    /// The number of the last one ever, also when it was thrown away.
    last: u64,
}

impl Mailbox {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Kept(letter) => {
                self.last = self.last.max(letter.id);
                self.letters.push(Arc::clone(letter));
            }
            Change::Emptied => self.letters.clear(),
        }
    }
}

impl Relay {
    /// Reads what was kept. Blocks.
    pub(in crate::sandbox) fn open(house: bank::Shared) -> io::Result<Self> {
        let dir = house.settings.dir.join("mail");
        fs::create_dir_all(&dir)?;
        let mut mailbox = Mailbox::default();
        let journal = Journal::open(&dir, |change: Change| mailbox.apply(&change))?;
        let tls = acceptor(&house.settings.dir)?;
        let settings = house.settings.mail.clone();
        Ok(Self { house, settings, faults: Faults::default(), tls, mailbox: Mutex::new(mailbox), journal })
    }

    /// Keeps a message; when this returns it is on disk.
    pub(super) async fn keep(
        &self,
        envelope: Envelope,
        tls: bool,
        user: Option<String>,
        raw: Vec<u8>,
    ) -> io::Result<u64> {
        let (id, line) = {
            let mut mailbox = self.locked();
            let id = mailbox.last + 1;
            let change =
                Change::Kept(Arc::new(Letter { id, received: self.house.clock.now(), envelope, tls, user, raw }));
            mailbox.apply(&change);
            (id, self.journal.append(&change))
        };
        self.journal.synced(line).await?;
        Ok(id)
    }

    /// Throws everything away.
    pub(super) async fn empty(&self) -> io::Result<()> {
        let line = {
            let mut mailbox = self.locked();
            mailbox.apply(&Change::Emptied);
            self.journal.append(&Change::Emptied)
        };
        self.journal.synced(line).await
    }

    /// All that is there, oldest first.
    pub(super) fn letters(&self) -> Vec<Arc<Letter>> {
        self.locked().letters.clone()
    }

    pub(super) fn letter(&self, id: u64) -> Option<Arc<Letter>> {
        self.locked().letters.iter().find(|letter| letter.id == id).cloned()
    }

    fn locked(&self) -> MutexGuard<'_, Mailbox> {
        self.mailbox.lock().expect("nothing panics while it holds the mailbox")
    }

    /// Writes what is queued and lets go of the books.
    pub(in crate::sandbox) async fn close(&self) {
        self.journal.close().await;
    }
}

/// Shows a certificate of the sandbox's CA.
fn acceptor(dir: &Path) -> io::Result<TlsAcceptor> {
    let certificate = CertificateDer::from_pem_file(dir.join(signing::MAIL)).map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_file(dir.join(signing::MAIL_KEY)).map_err(io::Error::other)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![certificate], key))
        .map_err(io::Error::other)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// A message is bytes, and a line of the journal is text.
mod in_base64 {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::{BASE64_STANDARD, Engine};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        BASE64_STANDARD.decode(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}
