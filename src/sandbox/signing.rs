//! The certificates behind webhook signatures: a CA of the sandbox's own, made once and kept in its directory.
//!
//! `root.pem` is what a client is configured to trust. The root's key is thrown away as soon as it has signed, so that
//! nobody can add to what it vouches for.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::KeyPair as RsaKeyPair,
    signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, UnparsedPublicKey},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::{DateTime, Datelike, Utc};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_RSA_SHA256, date_time_ymd,
};
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject};

/// The name that PayPal's signing certificates carry, in its sandbox.
const COMMON_NAME: &str = "messageverificationcerts.sandbox.paypal.com";

const ROOT: &str = "root.pem";
const CERTIFICATE: &str = "leaf.pem";
const KEY: &str = "leaf.key";
const EXPIRED: &str = "expired.pem";
/// What the mail half shows to who asks for STARTTLS: the CA's too, so that one root is trusted for everything.
pub(super) const MAIL: &str = "mail.pem";
pub(super) const MAIL_KEY: &str = "mail.key";
const FOREIGN: &str = "foreign.pem";
const FOREIGN_KEY: &str = "foreign.key";

/// Who can sign, rightly and wrongly.
pub(super) struct Authority {
    pub(super) root_pem: String,
    pub(super) genuine: Signer,
    /// The same key under a certificate that ran out a year ago.
    pub(super) expired: Signer,
    /// A key and a certificate that look the same, from a CA that nobody trusts.
    pub(super) foreign: Signer,
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
        if !dir.join(ROOT).exists() || !dir.join(MAIL).exists() {
            establish(dir, now.year())?;
        }
        Ok(Self {
            root_pem: fs::read_to_string(dir.join(ROOT))?,
            genuine: Signer::read(dir, CERTIFICATE, KEY)?,
            expired: Signer::read(dir, EXPIRED, KEY)?,
            foreign: Signer::read(dir, FOREIGN, FOREIGN_KEY)?,
        })
    }

    /// The signer whose certificate is served under this name.
    pub(super) fn find(&self, name: &str) -> Option<&Signer> {
        [&self.genuine, &self.expired, &self.foreign].into_iter().find(|signer| signer.name == name)
    }
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
    let root = ca("Souk Sandbox Root CA", year)?;
    let key = rsa_key()?;
    let certificate = leaf(year - 1, year + 10)?.signed_by(&key, &root.1).map_err(io::Error::other)?;
    let expired = leaf(year - 3, year - 1)?.signed_by(&key, &root.1).map_err(io::Error::other)?;
    keep(dir, KEY, 0o600, &key.serialize_pem())?;
    keep(dir, CERTIFICATE, 0o644, &certificate.pem())?;
    keep(dir, EXPIRED, 0o644, &expired.pem())?;

    let mail = rsa_key()?;
    let mail_certificate = mail_leaf(year - 1, year + 10)?.signed_by(&mail, &root.1).map_err(io::Error::other)?;
    keep(dir, MAIL_KEY, 0o600, &mail.serialize_pem())?;
    keep(dir, MAIL, 0o644, &mail_certificate.pem())?;

    let stranger = ca("Somebody Else's Root CA", year)?;
    let key = rsa_key()?;
    let certificate = leaf(year - 1, year + 10)?.signed_by(&key, &stranger.1).map_err(io::Error::other)?;
    keep(dir, FOREIGN_KEY, 0o600, &key.serialize_pem())?;
    keep(dir, FOREIGN, 0o644, &certificate.pem())?;

    keep(dir, ROOT, 0o644, &root.0)
}

/// The certificate of a new CA, and what it signs with.
fn ca(name: &str, year: i32) -> io::Result<(String, Issuer<'static, KeyPair>)> {
    let mut params = params(name, year - 1, year + 20)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = rsa_key()?;
    let certificate = params.self_signed(&key).map_err(io::Error::other)?;
    Ok((certificate.pem(), Issuer::new(params, key)))
}

fn leaf(from_year: i32, to_year: i32) -> io::Result<CertificateParams> {
    let mut params = params(COMMON_NAME, from_year, to_year)?;
    params.subject_alt_names = vec![rcgen::SanType::DnsName(COMMON_NAME.try_into().map_err(io::Error::other)?)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// For whoever connects to this machine, by name or by address.
fn mail_leaf(from_year: i32, to_year: i32) -> io::Result<CertificateParams> {
    let mut params = params("localhost", from_year, to_year)?;
    let name = rcgen::SanType::DnsName("localhost".try_into().map_err(io::Error::other)?);
    let addresses = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
    params.subject_alt_names = addresses.map(rcgen::SanType::IpAddress).into_iter().chain([name]).collect();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn params(name: &str, from_year: i32, to_year: i32) -> io::Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new()).map_err(io::Error::other)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::OrganizationName, "Souk Sandbox");
    params.not_before = date_time_ymd(from_year, 1, 1);
    params.not_after = date_time_ymd(to_year, 1, 1);
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
