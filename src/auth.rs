//! Who may ask what: staff by a bearer token, a guest by the token of the order.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use souk_actors::domain::OrderId;
use subtle::ConstantTimeEq;

use crate::gateways::Secret;

/// The shop's keys.
#[derive(Debug, Clone)]
pub struct Keys {
    staff: Secret,
    secret: Secret,
}

impl Keys {
    /// `staff` is the bearer token, `secret` what order tokens are made with.
    #[must_use]
    pub fn new(staff: Secret, secret: Secret) -> Self {
        Self { staff, secret }
    }

    /// Whether this is the staff's token. Compares in constant time, an empty token is nobody's.
    #[must_use]
    pub fn is_staff(&self, token: &str) -> bool {
        !token.is_empty() && bool::from(token.as_bytes().ct_eq(self.staff.expose().as_bytes()))
    }

    /// What a guest shows to read an order: HMAC-SHA256 of its id, so nothing is stored and a retry gets the same.
    #[must_use]
    pub fn order_token(&self, order_id: OrderId) -> String {
        URL_SAFE_NO_PAD.encode(self.mac(order_id).finalize().into_bytes())
    }

    /// Whether `token` is the order's.
    #[must_use]
    pub fn opens(&self, order_id: OrderId, token: &str) -> bool {
        URL_SAFE_NO_PAD.decode(token).is_ok_and(|tag| self.mac(order_id).verify_slice(&tag).is_ok())
    }

    /// Something to be given to a client and back, as it is: whoever changes it or makes one has no seal for it.
    #[must_use]
    pub fn seal(&self, purpose: &str, payload: &[u8]) -> String {
        let tag = self.tagged(purpose).chain_update(payload).finalize().into_bytes();
        format!("{}.{}", URL_SAFE_NO_PAD.encode(payload), URL_SAFE_NO_PAD.encode(tag))
    }

    /// What was sealed here for this purpose; none if it was not.
    #[must_use]
    pub fn unseal(&self, purpose: &str, sealed: &str) -> Option<Vec<u8>> {
        let (payload, tag) = sealed.split_once('.')?;
        let (payload, tag) = (URL_SAFE_NO_PAD.decode(payload).ok()?, URL_SAFE_NO_PAD.decode(tag).ok()?);
        self.tagged(purpose).chain_update(&payload).verify_slice(&tag).is_ok().then_some(payload)
    }

    fn mac(&self, order_id: OrderId) -> Hmac<Sha256> {
        self.tagged("order token").chain_update(order_id.0.to_be_bytes())
    }

    /// One secret for several purposes: what is made for one is nothing to another.
    fn tagged(&self, purpose: &str) -> Hmac<Sha256> {
        let mac = Hmac::<Sha256>::new_from_slice(self.secret.expose().as_bytes());
        let mac = mac.expect("HMAC takes keys of any length");
        mac.chain_update(b"souk ").chain_update(purpose).chain_update(b"\0")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_opens_its_own_order_only() {
        let keys = Keys::new("staff".into(), "secret".into());
        let token = keys.order_token(OrderId(7));
        assert!(keys.opens(OrderId(7), &token));
        assert!(!keys.opens(OrderId(8), &token));
        assert!(!Keys::new("staff".into(), "other".into()).opens(OrderId(7), &token));
        for junk in ["", "x", "äöü", &token[1..]] {
            assert!(!keys.opens(OrderId(7), junk), "{junk}");
        }
    }

    #[test]
    fn what_is_sealed_comes_back_as_it_was_or_not_at_all() {
        let keys = Keys::new("staff".into(), "secret".into());
        let sealed = keys.seal("a purpose", b"some text");
        assert_eq!(keys.unseal("a purpose", &sealed).as_deref(), Some(b"some text".as_slice()));
        assert_eq!(keys.unseal("another", &sealed), None);
        assert_eq!(Keys::new("staff".into(), "other".into()).unseal("a purpose", &sealed), None);
        let (payload, tag) = sealed.split_once('.').expect("two halves");
        let other = keys.seal("a purpose", b"some test");
        let swapped = format!("{}.{tag}", other.split_once('.').expect("two halves").0);
        for junk in ["", ".", "x", payload, &swapped, &sealed[1..], &format!("{sealed}A"), &format!("{payload}.")] {
            assert_eq!(keys.unseal("a purpose", junk), None, "{junk}");
        }
    }

    #[test]
    fn nobody_is_staff_without_a_token() {
        assert!(!Keys::new("".into(), "s".into()).is_staff(""));
        assert!(Keys::new("t".into(), "s".into()).is_staff("t"));
        assert!(!Keys::new("t".into(), "s".into()).is_staff("T"));
    }
}
