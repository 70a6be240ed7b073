//! A certificate authority of our own, a host that serves its certificates, and what must not get past.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use axum::{
    Router,
    extract::{Path, State},
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
    routing::get,
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SigningKey,
    date_time_ymd,
};

use super::*;

const SUBJECT: &str = "messageverificationcerts.sandbox.paypal.com";
const BODY: &[u8] = br#"{"id":"WH-2C707249AJ963352S-8WR62076K2971640M","event_type":"PAYMENT.CAPTURE.COMPLETED"}"#;

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let params = Self::params(name);
        let root = params.self_signed(&key).expect("a root").der().clone();
        Self { issuer: Issuer::new(params, key), root }
    }

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    }

    /// An authority below this one, and the certificate that says so.
    fn intermediate(&self) -> (Self, String) {
        let key = KeyPair::generate().expect("a key");
        let params = Self::params("Intermediate");
        let certificate = params.signed_by(&key, &self.issuer).expect("an intermediate");
        (Self { issuer: Issuer::new(params, key), root: self.root.clone() }, certificate.pem())
    }

    fn certify(&self, leaf: &Leaf, key: &KeyPair) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, leaf.common_name);
        params.extended_key_usages = vec![leaf.usage.clone()];
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(leaf.last_year, 1, 1);
        params.signed_by(key, &self.issuer).expect("a leaf").pem()
    }
}

struct Leaf {
    common_name: &'static str,
    last_year: i32,
    usage: ExtendedKeyUsagePurpose,
}

const GOOD: Leaf = Leaf { common_name: SUBJECT, last_year: 2040, usage: ExtendedKeyUsagePurpose::ServerAuth };

/// What the host serves at a path.
#[derive(Clone)]
enum Page {
    Certificate(String),
    Raw(u16, Vec<u8>),
    Redirect(String),
}

/// A host of certificates on this machine, which counts how often it is asked.
struct Host {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl Host {
    async fn serve(pages: Vec<(&'static str, Page)>) -> Self {
        type Served = (Arc<Vec<(&'static str, Page)>>, Arc<AtomicUsize>);
        async fn page(State((pages, asked)): State<Served>, Path(name): Path<String>) -> Response {
            asked.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(50)).await;
            let found = pages.iter().find(|(known, _)| *known == name).map(|(_, page)| page.clone());
            match found {
                Some(Page::Certificate(pem)) => pem.into_response(),
                Some(Page::Raw(status, body)) => {
                    (StatusCode::from_u16(status).expect("a status"), body).into_response()
                }
                Some(Page::Redirect(to)) => (StatusCode::FOUND, [(header::LOCATION, to)]).into_response(),
                None => StatusCode::NOT_FOUND.into_response(),
            }
        }
        let asked = Arc::new(AtomicUsize::new(0));
        let served: Served = (Arc::new(pages), asked.clone());
        let router = Router::new().route("/certs/{name}", get(page)).with_state(served);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, asked }
    }

    fn place(&self) -> String {
        format!("http://{}/certs/", self.address)
    }

    fn url(&self, name: &str) -> String {
        format!("{}{name}", self.place())
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

/// One shop, one authority, one host with a good certificate and any number of others.
struct Scene {
    key: KeyPair,
    host: Host,
    clock: Clock,
    verifier: Verifier,
}

impl Scene {
    async fn new() -> Self {
        Self::with(|_, _| Vec::new()).await
    }

    async fn with(more: impl FnOnce(&Authority, &KeyPair) -> Vec<(&'static str, Page)>) -> Self {
        let authority = Authority::new("Root");
        let key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).expect("a key");
        let mut pages = more(&authority, &key);
        pages.push(("CERT-good", Page::Certificate(authority.certify(&GOOD, &key))));
        let host = Host::serve(pages).await;
        let clock = Clock::default();
        let settings = Settings {
            webhook_id: "9JX12345".to_owned(),
            cert_urls: vec![host.place()],
            roots: vec![authority.root],
            subjects: vec![SUBJECT.to_owned()],
        };
        let verifier = Verifier::new(settings, clock.clone()).expect("settings");
        Self { key, host, clock, verifier }
    }

    /// Headers that PayPal would send with `body`, its certificate lying under `name`.
    fn headers(&self, name: &str, webhook_id: &str, body: &[u8]) -> HeaderMap {
        self.signed_with(&self.key, name, webhook_id, body)
    }

    fn signed_with(&self, key: &KeyPair, name: &str, webhook_id: &str, body: &[u8]) -> HeaderMap {
        let (id, time) = ("69cd13f0-d67a-11e5-baa3-778b53f4ae55", "2026-11-22T12:00:00Z");
        let message = format!("{id}|{time}|{webhook_id}|{}", crc32fast::hash(body));
        let signature = BASE64_STANDARD.encode(key.sign(message.as_bytes()).expect("a signature"));
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("paypal-transmission-id", id),
            ("paypal-transmission-time", time),
            ("paypal-transmission-sig", &signature),
            ("paypal-cert-url", &self.host.url(name)),
            ("paypal-auth-algo", "SHA256withRSA"),
            ("paypal-auth-version", "v2"),
        ] {
            headers.insert(name, value.parse().expect("a value"));
        }
        headers
    }

    fn good_headers(&self) -> HeaderMap {
        self.headers("CERT-good", "9JX12345", BODY)
    }

    async fn verify(&self, headers: &HeaderMap) -> Result<Verified, Rejection> {
        self.verifier.verify(headers, BODY).await
    }

    /// What becomes of a webhook that is good but for its certificate.
    async fn with_certificate(&self, name: &str) -> Result<Verified, Rejection> {
        self.verify(&self.headers(name, "9JX12345", BODY)).await
    }

    /// What becomes of a webhook that is good but for one header.
    async fn with_header(&self, name: &'static str, value: &str) -> Result<Verified, Rejection> {
        let mut headers = self.good_headers();
        headers.insert(name, value.parse().expect("a value"));
        self.verify(&headers).await
    }
}

fn forged(answer: &Result<Verified, Rejection>) -> bool {
    matches!(answer, Err(Rejection::Forged(_)))
}

fn cannot_tell(answer: &Result<Verified, Rejection>) -> bool {
    matches!(answer, Err(Rejection::CannotTell(_)))
}

#[tokio::test]
async fn a_good_one_is_believed() {
    let scene = Scene::new().await;
    let verified = scene.verify(&scene.good_headers()).await.expect("believed");
    assert_eq!(verified.transmission_id, "69cd13f0-d67a-11e5-baa3-778b53f4ae55");
    assert_eq!(verified.event_id.as_deref(), Some("WH-2C707249AJ963352S-8WR62076K2971640M"));
}

#[tokio::test]
async fn a_chain_is_believed_and_a_gap_in_it_is_not() {
    let scene = Scene::with(|authority, key| {
        let (below, intermediate) = authority.intermediate();
        let leaf = below.certify(&GOOD, key);
        let chain = format!("{leaf}{intermediate}");
        vec![("CERT-chain", Page::Certificate(chain)), ("CERT-gap", Page::Certificate(leaf))]
    })
    .await;
    assert!(scene.with_certificate("CERT-chain").await.is_ok());
    assert!(forged(&scene.with_certificate("CERT-gap").await));
}

#[tokio::test]
async fn what_was_not_signed_for_us_is_forged() {
    let scene = Scene::new().await;
    let tampered = [BODY, b" "].concat();
    assert!(forged(&scene.verifier.verify(&scene.good_headers(), &tampered).await));
    assert!(forged(&scene.verify(&scene.headers("CERT-good", "SOMEBODY-ELSE", BODY)).await));
    assert!(forged(&scene.with_header("paypal-transmission-id", "69cd13f0-d67a-11e5-baa3-778b53f4ae56").await));
    assert!(forged(&scene.with_header("paypal-transmission-time", "2026-11-22T12:00:01Z").await));
    assert!(forged(&scene.with_header("paypal-transmission-sig", "AAAA").await));
}

#[tokio::test]
async fn the_crc_is_all_that_is_signed_of_a_body() {
    // the reason why a verified body is a hint and nothing more: see the module's introduction
    let scene = Scene::new().await;
    let other = body_of_crc(br#"{"event_type":"PAYMENT.CAPTURE.COMPLETED","amount":"999.00"}"#, crc32fast::hash(BODY));
    assert_ne!(other, BODY);
    assert!(scene.verifier.verify(&scene.good_headers(), &other).await.is_ok());
}

/// `body` and four bytes that give it this CRC-32: the register is walked back from the wanted end.
fn body_of_crc(body: &[u8], wanted: u32) -> Vec<u8> {
    let step = |byte: u32| (0..8).fold(byte, |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 });
    let table: Vec<u32> = (0..256).map(step).collect();
    let mut register = !wanted;
    for _ in 0..4 {
        let index =
            table.iter().position(|entry| entry >> 24 == register >> 24).expect("each top byte is in the table");
        register = (register ^ table[index]) << 8 | u32::try_from(index).expect("a byte");
    }
    let patch = register ^ !crc32fast::hash(body);
    [body, &patch.to_le_bytes()].concat()
}

#[tokio::test]
async fn headers_must_be_there_once_and_plain() {
    let scene = Scene::new().await;
    for name in [
        "paypal-transmission-id",
        "paypal-transmission-time",
        "paypal-transmission-sig",
        "paypal-cert-url",
        "paypal-auth-algo",
    ] {
        let mut missing = scene.good_headers();
        let value = missing.remove(name).expect("was there");
        assert!(forged(&scene.verify(&missing).await), "{name} missing");
        let mut doubled = scene.good_headers();
        doubled.append(name, value);
        assert!(forged(&scene.verify(&doubled).await), "{name} doubled");
        for odd in [HeaderValue::from_static(""), HeaderValue::from_bytes(b"\xe9").expect("latin"), long_value()] {
            let mut headers = scene.good_headers();
            headers.insert(name, odd);
            assert!(forged(&scene.verify(&headers).await), "{name} odd");
        }
    }
    for algorithm in ["SHA1withRSA", "sha256withrsa", "none"] {
        assert!(forged(&scene.with_header("paypal-auth-algo", algorithm).await), "{algorithm}");
    }
    assert!(forged(&scene.with_header("paypal-transmission-id", "a|b").await));
    assert!(forged(&scene.with_header("paypal-transmission-time", "yesterday").await));
    assert_eq!(scene.host.asked(), 0, "nothing was fetched for any of them");
}

fn long_value() -> HeaderValue {
    HeaderValue::from_bytes(&[b'A'; 4096]).expect("a value")
}

#[tokio::test]
async fn a_certificate_from_elsewhere_is_not_even_fetched() {
    let scene = Scene::new().await;
    let address = scene.host.address;
    for url in [
        format!("https://{address}/certs/CERT-good"),
        format!("http://127.0.0.2:{}/certs/CERT-good", address.port()),
        format!("http://127.0.0.1:{}/certs/CERT-good", address.port().wrapping_add(1)),
        "http://127.0.0.1/certs/CERT-good".to_owned(),
        format!("http://127.1:{}/certs/CERT-good", address.port()),
        format!("http://0x7f000001:{}/certs/CERT-good", address.port()),
        format!("http://localhost:{}/certs/CERT-good", address.port()),
        format!("http://{address}@evil.example/certs/CERT-good"),
        format!("http://user@{address}/certs/CERT-good"),
        format!("http://:secret@{address}/certs/CERT-good"),
        format!("http://@{address}/certs/CERT-good"),
        format!("http://evil.example/http://{address}/certs/CERT-good"),
        format!("http://{address}.evil.example/certs/CERT-good"),
        format!("HTTP://{address}/certs/CERT-good"),
        format!("http:{address}/certs/CERT-good"),
        format!("http:\\\\{address}\\certs\\CERT-good"),
        format!("http://{address}/Certs/CERT-good"),
        format!("http://{address}/other/CERT-good"),
        format!("http://{address}/certs"),
        format!("http://{address}/certs/"),
        format!("http://{address}//certs/CERT-good"),
        format!("http://{address}/certs//CERT-good"),
        format!("http://{address}/certs/a/CERT-good"),
        format!("http://{address}/certs/../certs/CERT-good"),
        format!("http://{address}/certs/./CERT-good"),
        format!("http://{address}/certs/.."),
        format!("http://{address}/certs/%2e%2e/secret"),
        format!("http://{address}/certs/..%2fsecret"),
        format!("http://{address}/certs/CERT%2Dgood"),
        format!("http://{address}/certs/CERT-good?"),
        format!("http://{address}/certs/CERT-good?x=1"),
        format!("http://{address}/certs/CERT-good#"),
        format!("http://{address}/certs/CERT-good#x"),
        format!("http://{address}/certs/CERT-good;x"),
        "file:///certs/CERT-good".to_owned(),
        "/certs/CERT-good".to_owned(),
    ] {
        assert!(forged(&scene.with_header("paypal-cert-url", &url).await), "{url}");
    }
    assert_eq!(scene.host.asked(), 0);
}

#[test]
fn paypals_own_urls_are_allowed_and_their_lookalikes_are_not() {
    let verifier = Verifier::new(Settings::live("9JX12345"), Clock::default()).expect("settings");
    let good = "https://api.paypal.com/v1/notifications/certs/CERT-360caa42-fca2a594-1d93a270";
    assert_eq!(verifier.certificate_url(good).as_ref().map(Url::as_str), Ok(good));
    for bad in [
        "http://api.paypal.com/v1/notifications/certs/CERT-360caa42",
        "https://api.paypal.com:443/v1/notifications/certs/CERT-360caa42",
        "https://api.paypal.com:8443/v1/notifications/certs/CERT-360caa42",
        "https://API.paypal.com/v1/notifications/certs/CERT-360caa42",
        "https://api.paypal.com./v1/notifications/certs/CERT-360caa42",
        "https://api.paypal.com.evil.example/v1/notifications/certs/CERT-360caa42",
        "https://api.paypal.com@evil.example/v1/notifications/certs/CERT-360caa42",
        "https://evil.api.paypal.com/v1/notifications/certs/CERT-360caa42",
        "https://api.sandbox.paypal.com/v1/notifications/certs/CERT-360caa42",
        "https://api.paypal.com/v1/notifications/webhooks-events/CERT-360caa42",
        "https://api.paypal.com/v1/notifications/certs/../../x",
        "https://api.paypa\u{13a}.com/v1/notifications/certs/CERT-360caa42",
    ] {
        assert!(verifier.certificate_url(bad).is_err(), "{bad}");
    }
}

#[tokio::test]
async fn a_certificate_must_be_paypals_and_valid() {
    let scene = Scene::with(|authority, key| {
        let foreign = Authority::new("Root");
        let certificate = |leaf: Leaf| Page::Certificate(authority.certify(&leaf, key));
        let stranger = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).expect("a key");
        vec![
            ("CERT-foreign", Page::Certificate(foreign.certify(&GOOD, key))),
            ("CERT-expired", certificate(Leaf { last_year: 2021, ..GOOD })),
            ("CERT-other", certificate(Leaf { common_name: "www.paypal.com", ..GOOD })),
            ("CERT-suffix", certificate(Leaf { common_name: "messageverificationcerts.sandbox.paypal.com.x", ..GOOD })),
            ("CERT-live", certificate(Leaf { common_name: "messageverificationcerts.paypal.com", ..GOOD })),
            ("CERT-client", certificate(Leaf { usage: ExtendedKeyUsagePurpose::ClientAuth, ..GOOD })),
            ("CERT-key", Page::Certificate(authority.certify(&GOOD, &stranger))),
        ]
    })
    .await;
    for name in ["CERT-foreign", "CERT-expired", "CERT-other", "CERT-suffix", "CERT-live", "CERT-client", "CERT-key"] {
        assert!(forged(&scene.with_certificate(name).await), "{name}");
    }
}

#[tokio::test]
async fn a_certificate_is_kept_no_longer_than_it_is_valid() {
    let scene = Scene::new().await;
    assert!(scene.verify(&scene.good_headers()).await.is_ok());
    scene.clock.advance(TimeDelta::days(365 * 20));
    assert!(forged(&scene.verify(&scene.good_headers()).await));
    scene.clock.advance(TimeDelta::days(-365 * 30));
    assert!(forged(&scene.verify(&scene.good_headers()).await), "nor before it is");
    assert_eq!(scene.host.asked(), 1, "it is kept all the same");
}

/// PayPal signs with a new key from one day to the next: a new URL below the same roots needs nobody's hand, and what was
/// signed with the old one is still believed.
#[tokio::test]
async fn a_new_certificate_is_believed_without_a_restart() {
    let new_key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).expect("a key");
    let scene = Scene::with(|authority, _| {
        vec![("CERT-new", Page::Certificate(authority.certify(&Leaf { last_year: 2041, ..GOOD }, &new_key)))]
    })
    .await;
    assert!(scene.verify(&scene.good_headers()).await.is_ok());
    assert!(forged(&scene.with_certificate("CERT-new").await), "the old key is not the new certificate's");
    let rotated = scene.signed_with(&new_key, "CERT-new", "9JX12345", BODY);
    assert!(scene.verify(&rotated).await.is_ok());
    assert!(scene.verify(&scene.good_headers()).await.is_ok());
    assert_eq!(scene.host.asked(), 2);
}

#[tokio::test]
async fn where_the_certificate_should_be_is_none() {
    let scene = Scene::with(|authority, key| {
        let good = authority.certify(&GOOD, key);
        let long = format!("{good}{}", " ".repeat(LONGEST_ANSWER));
        vec![
            ("CERT-long", Page::Raw(200, long.into_bytes())),
            ("CERT-many", Page::Raw(200, good.repeat(LONGEST_CHAIN + 1).into_bytes())),
            ("CERT-html", Page::Raw(200, b"<html>Maintenance</html>".to_vec())),
            ("CERT-broken", Page::Raw(200, b"-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n".to_vec())),
            ("CERT-error", Page::Raw(503, good.into_bytes())),
            ("CERT-moved", Page::Redirect("CERT-good".to_owned())),
        ]
    })
    .await;
    for name in ["CERT-long", "CERT-many", "CERT-html", "CERT-broken", "CERT-error", "CERT-moved", "CERT-missing"] {
        assert!(cannot_tell(&scene.with_certificate(name).await), "{name}");
    }
    assert_eq!(scene.host.asked(), 7, "the redirect was not followed");
    for _ in 0..5 {
        assert!(cannot_tell(&scene.with_certificate("CERT-missing").await));
    }
    assert_eq!(scene.host.asked(), 7, "a URL without a certificate is left alone for a while");
}

#[tokio::test]
async fn a_host_that_does_not_answer_is_nobodys_fault() {
    let authority = Authority::new("Root");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let place = format!("http://{}/certs/", listener.local_addr().expect("an address"));
    drop(listener);
    let scene = Scene::new().await;
    let settings = Settings {
        webhook_id: "9JX12345".to_owned(),
        cert_urls: vec![place.clone()],
        roots: vec![authority.root],
        subjects: vec![SUBJECT.to_owned()],
    };
    let verifier = Verifier::new(settings, Clock::default()).expect("settings");
    let mut headers = scene.good_headers();
    headers.insert("paypal-cert-url", format!("{place}CERT-good").parse().expect("a value"));
    assert!(cannot_tell(&verifier.verify(&headers, BODY).await));
}

#[tokio::test]
async fn a_certificate_is_fetched_once() {
    let scene = Scene::new().await;
    let headers = scene.good_headers();
    let answers = futures::future::join_all((0..20).map(|_| scene.verify(&headers))).await;
    assert!(answers.iter().all(Result::is_ok));
    assert!(scene.verify(&headers).await.is_ok());
    assert_eq!(scene.host.asked(), 1);

    let missing = scene.headers("CERT-missing", "9JX12345", BODY);
    let answers = futures::future::join_all((0..20).map(|_| scene.verify(&missing))).await;
    assert!(answers.iter().all(cannot_tell));
    assert_eq!(scene.host.asked(), 2, "a failure is shared too");
}

#[tokio::test]
async fn invented_urls_do_not_become_a_flood() {
    let scene = Scene::new().await;
    assert!(scene.verify(&scene.good_headers()).await.is_ok());
    let invented: Vec<_> = (0..100).map(|number| scene.headers(&format!("CERT-{number}"), "9JX12345", BODY)).collect();
    let answers = futures::future::join_all(invented.iter().map(|headers| scene.verify(headers))).await;
    assert!(answers.iter().all(cannot_tell));
    assert_eq!(scene.host.asked(), 30);
    assert!(scene.verify(&scene.good_headers()).await.is_ok(), "a known certificate needs no fetch");
    scene.clock.advance(TimeDelta::minutes(1));
    assert!(cannot_tell(&scene.with_certificate("CERT-one-more").await));
    assert_eq!(scene.host.asked(), 31, "and a minute later there is room again");
}

/// What has verified a webhook once does so, flood or not, until it expires.
#[tokio::test]
async fn a_certificate_that_has_proved_itself_is_kept_until_it_expires() {
    let scene = Scene::new().await;
    assert!(scene.verify(&scene.good_headers()).await.is_ok());
    scene.verifier.certificates.chains.invalidate_all(); // pushed out, or a day later
    scene.verifier.certificates.chains.run_pending_tasks().await;
    let invented: Vec<_> = (0..40).map(|number| scene.headers(&format!("CERT-{number}"), "9JX12345", BODY)).collect();
    futures::future::join_all(invented.iter().map(|headers| scene.verify(headers))).await;
    assert!(scene.verify(&scene.good_headers()).await.is_ok(), "no fetch is needed, and none would be allowed");
    assert_eq!(scene.host.asked(), 30);
    scene.clock.advance(TimeDelta::days(40 * 365));
    assert!(scene.verify(&scene.good_headers()).await.is_err());
    assert_eq!(scene.host.asked(), 31, "an expired one is asked for again");
}

#[test]
fn settings_that_would_believe_anybody_or_nobody_are_refused() {
    let refused = |change: fn(&mut Settings)| {
        let mut settings = Settings::sandbox("9JX12345");
        change(&mut settings);
        Verifier::new(settings, Clock::default()).err().map(|error| error.setting)
    };
    assert_eq!(refused(|_| {}), None);
    assert_eq!(refused(|s| s.webhook_id.clear()), Some("webhook_id"));
    assert_eq!(refused(|s| s.webhook_id = "WEBHOOK_ID".to_owned()), Some("webhook_id"));
    assert_eq!(refused(|s| s.cert_urls.clear()), Some("cert_urls"));
    assert_eq!(refused(|s| s.cert_urls.push("http://api.paypal.com/certs/".to_owned())), Some("cert_urls"));
    assert_eq!(refused(|s| s.cert_urls.push("https://api.paypal.com/certs".to_owned())), Some("cert_urls"));
    assert_eq!(refused(|s| s.cert_urls.push("https://api.paypal.com@x/certs/".to_owned())), Some("cert_urls"));
    assert_eq!(refused(|s| s.roots.clear()), Some("roots"));
    assert_eq!(refused(|s| s.roots.push(CertificateDer::from(vec![1, 2, 3]))), Some("roots"));
    assert_eq!(refused(|s| s.subjects.clear()), Some("subjects"));
}

#[test]
fn the_roots_are_digicerts() {
    use sha2::{Digest, Sha256};
    let prints: Vec<String> = production_roots()
        .iter()
        .map(|root| Sha256::digest(root).iter().map(|byte| format!("{byte:02x}")).collect())
        .collect();
    assert_eq!(
        prints,
        [
            "7431e5f4c3c1ce4690774f0b61e05440883ba9a01ed00ba6abd7806ed3b118cf",
            "4348a0e9444c78cb265e058d5e8944b4d84f9662bd26db257f8934a443c70161",
            "cb3ccbb76031e5e0138f8dd39a23f9de47ffc35e43c1144cea27d46a5ab1cb5f",
        ]
    );
}
