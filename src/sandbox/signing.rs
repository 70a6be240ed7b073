//! The certificates behind webhook signatures: a CA of the sandbox's own, made once and kept in its directory.
//!
//! `root.pem` is what a client is configured to trust. The root's key stays beside it, for the certificates are renewed
//! from time to time; whoever can read it could read the keys that sign as well.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::{Arc, RwLock},
};

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::KeyPair as RsaKeyPair,
    signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, UnparsedPublicKey},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::{DateTime, Datelike, TimeDelta, Utc};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_RSA_SHA256, date_time_ymd,
};
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject};

/// The name that PayPal's signing certificates carry, in its sandbox.
const COMMON_NAME: &str = "messageverificationcerts.sandbox.paypal.com";

const ROOT: &str = "root.pem";
const ROOT_KEY: &str = "root.key";
const ROOT_NAME: &str = "Souk Sandbox Root CA";
const CERTIFICATE: &str = "leaf.pem";
const KEY: &str = "leaf.key";
const EXPIRED: &str = "expired.pem";
const FOREIGN: &str = "foreign.pem";
const FOREIGN_KEY: &str = "foreign.key";

/// Who can sign, rightly and wrongly.
pub(super) struct Authority {
    pub(super) root_pem: String,
    /// The last is the one that signs; those before it are still served. Never empty.
    generations: RwLock<Vec<Arc<Signer>>>,
    /// The same key under a certificate that ran out a year ago.
    pub(super) expired: Arc<Signer>,
    /// A key and a certificate that look the same, from a CA that nobody trusts.
    pub(super) foreign: Arc<Signer>,
}

pub(super) struct Signer {
    /// The last part of the URL under which the certificate is fetched.
    pub(super) name: String,
    pub(super) certificate: String,
    key: RsaKeyPair,
}

impl Authority {
    /// Reads the certificates and keys in `dir`, after making them if there are none. Blocks, for RSA keys take long.
    pub(super) fn open(dir: &Path, now: DateTime<Utc>) -> io::Result<Self> {
        if !dir.join(ROOT).exists() {
            establish(dir, now.year())?;
        }
        Ok(Self {
            root_pem: fs::read_to_string(dir.join(ROOT))?,
            generations: RwLock::new(generations(dir)?),
            expired: Arc::new(Signer::read(dir, EXPIRED, KEY)?),
            foreign: Arc::new(Signer::read(dir, FOREIGN, FOREIGN_KEY)?),
        })
    }

    /// Who signs now.
    pub(super) fn genuine(&self) -> Arc<Signer> {
        let generations = self.generations.read().expect("nothing panics while it holds the certificates");
        Arc::clone(generations.last().expect("there is always one"))
    }

    /// One who signs, or has signed, in the bank's name.
    pub(super) fn genuine_of(&self, name: &str) -> Option<Arc<Signer>> {
        let generations = self.generations.read().expect("nothing panics while it holds the certificates");
        generations.iter().find(|signer| signer.name == name).cloned()
    }

    /// The signer whose certificate is served under this name.
    pub(super) fn find(&self, name: &str) -> Option<Arc<Signer>> {
        let strange = [&self.expired, &self.foreign].into_iter().find(|signer| signer.name == name);
        strange.cloned().or_else(|| self.genuine_of(name))
    }

    /// From now on another key signs, under a new certificate of the same CA. Blocks, for RSA keys take long.
    ///
    /// # Errors
    /// The CA's key is not there: it was made by a sandbox that threw it away.
    pub(super) fn rotate(&self, dir: &Path, now: DateTime<Utc>, valid: TimeDelta, forget: bool) -> io::Result<()> {
        let root_key = KeyPair::from_pem(&fs::read_to_string(dir.join(ROOT_KEY))?).map_err(io::Error::other)?;
        let root = Issuer::new(ca_params(ROOT_NAME, now.year())?, root_key);
        let params = leaf(Day::of(now - TimeDelta::days(1)), Day::of(now + valid))?;
        let key = rsa_key()?;
        let certificate = params.signed_by(&key, &root).map_err(io::Error::other)?;

        let mut generations = self.generations.write().expect("nothing panics while it holds the certificates");
        let number = (2..).find(|number| !dir.join(key_name(*number)).exists()).unwrap_or_default();
        keep(dir, &key_name(number), 0o600, &key.serialize_pem())?;
        keep(dir, &certificate_name(number), 0o644, &certificate.pem())?;
        if forget {
            generations.clear();
            for old in 1..number {
                let _forgotten_before = fs::remove_file(dir.join(certificate_name(old)));
            }
        }
        generations.push(Arc::new(Signer::read(dir, &certificate_name(number), &key_name(number))?));
        Ok(())
    }
}

/// The certificates that are served, oldest first. The keys of those that are not stay, so that no number comes twice.
fn generations(dir: &Path) -> io::Result<Vec<Arc<Signer>>> {
    let mut signers = Vec::new();
    for number in (1..).take_while(|number| dir.join(key_name(*number)).exists()) {
        if dir.join(certificate_name(number)).exists() {
            signers.push(Arc::new(Signer::read(dir, &certificate_name(number), &key_name(number))?));
        }
    }
    if signers.is_empty() { Err(io::Error::other("the sandbox has lost its certificates")) } else { Ok(signers) }
}

fn certificate_name(number: u32) -> String {
    if number == 1 { CERTIFICATE.to_owned() } else { format!("leaf-{number}.pem") }
}

fn key_name(number: u32) -> String {
    if number == 1 { KEY.to_owned() } else { format!("leaf-{number}.key") }
}

impl Signer {
    fn read(dir: &Path, certificate: &str, key: &str) -> io::Result<Self> {
        let certificate = fs::read_to_string(dir.join(certificate))?;
        let key = PrivatePkcs8KeyDer::from_pem_file(dir.join(key)).map_err(io::Error::other)?;
        let key = RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).map_err(io::Error::other)?;
        let name = format!("CERT-360caa42-fca2a594-{:08x}", crc32fast::hash(certificate.as_bytes()));
        Ok(Self { name, certificate, key })
    }

    /// `SHA256withRSA`, in base64.
    pub(super) fn sign(&self, message: &str) -> String {
        let mut signature = vec![0; self.key.public_modulus_len()];
        let signed = self.key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature);
        signed.expect("an RSA key signs any message");
        BASE64_STANDARD.encode(signature)
    }

    pub(super) fn verify(&self, message: &str, signature: &str) -> bool {
        let Ok(signature) = BASE64_STANDARD.decode(signature) else { return false };
        let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, self.key.public_key().as_ref());
        key.verify(message.as_bytes(), &signature).is_ok()
    }
}

/// What is signed: the body is in it only by its CRC-32, in decimal.
pub(super) fn message(transmission_id: &str, time: &str, webhook_id: &str, body: &[u8]) -> String {
    format!("{transmission_id}|{time}|{webhook_id}|{}", crc32fast::hash(body))
}

/// Makes everything; `root.pem` comes last and says that the rest is there.
fn establish(dir: &Path, year: i32) -> io::Result<()> {
    let root = ca(ROOT_NAME, year)?;
    let key = rsa_key()?;
    let certificate =
        leaf(Day::new_year(year - 1), Day::new_year(year + 10))?.signed_by(&key, &root.1).map_err(io::Error::other)?;
    let expired =
        leaf(Day::new_year(year - 3), Day::new_year(year - 1))?.signed_by(&key, &root.1).map_err(io::Error::other)?;
    keep(dir, KEY, 0o600, &key.serialize_pem())?;
    keep(dir, CERTIFICATE, 0o644, &certificate.pem())?;
    keep(dir, EXPIRED, 0o644, &expired.pem())?;

    let stranger = ca("Somebody Else's Root CA", year)?;
    let key = rsa_key()?;
    let certificate = leaf(Day::new_year(year - 1), Day::new_year(year + 10))?
        .signed_by(&key, &stranger.1)
        .map_err(io::Error::other)?;
    keep(dir, FOREIGN_KEY, 0o600, &key.serialize_pem())?;
    keep(dir, FOREIGN, 0o644, &certificate.pem())?;

    keep(dir, ROOT_KEY, 0o600, &root.1.key().serialize_pem())?;
    keep(dir, ROOT, 0o644, &root.0)
}

/// The certificate of a new CA, and what it signs with.
fn ca(name: &str, year: i32) -> io::Result<(String, Issuer<'static, KeyPair>)> {
    let params = ca_params(name, year)?;
    let key = rsa_key()?;
    let certificate = params.self_signed(&key).map_err(io::Error::other)?;
    Ok((certificate.pem(), Issuer::new(params, key)))
}

fn ca_params(name: &str, year: i32) -> io::Result<CertificateParams> {
    let mut params = params(name, Day::new_year(year - 1), Day::new_year(year + 20))?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn leaf(from: Day, to: Day) -> io::Result<CertificateParams> {
    let mut params = params(COMMON_NAME, from, to)?;
    params.subject_alt_names = vec![rcgen::SanType::DnsName(COMMON_NAME.try_into().map_err(io::Error::other)?)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// When a certificate begins or ends to be valid, at midnight.
#[derive(Clone, Copy)]
struct Day(i32, u8, u8);

impl Day {
    fn new_year(year: i32) -> Self {
        Self(year, 1, 1)
    }

    fn of(time: DateTime<Utc>) -> Self {
        let small = |number: u32| u8::try_from(number).expect("no month and no day is larger");
        Self(time.year(), small(time.month()), small(time.day()))
    }
}

fn params(name: &str, from: Day, to: Day) -> io::Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new()).map_err(io::Error::other)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::OrganizationName, "Souk Sandbox");
    params.not_before = date_time_ymd(from.0, from.1, from.2);
    params.not_after = date_time_ymd(to.0, to.1, to.2);
    Ok(params)
}

fn rsa_key() -> io::Result<KeyPair> {
    KeyPair::generate_for(&PKCS_RSA_SHA256).map_err(io::Error::other)
}

/// Writes a file so that it is there whole or not at all.
fn keep(dir: &Path, name: &str, mode: u32, text: &str) -> io::Result<()> {
    let draft = dir.join(format!("{name}.new"));
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(mode).open(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(draft, dir.join(name))
}
