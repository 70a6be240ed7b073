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

    fn mac(&self, order_id: OrderId) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(self.secret.expose().as_bytes()).expect("HMAC takes keys of any length");
        mac.update(b"souk order token\0");
        mac.update(&order_id.0.to_be_bytes());
        mac
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
    fn nobody_is_staff_without_a_token() {
        assert!(!Keys::new("".into(), "s".into()).is_staff(""));
        assert!(Keys::new("t".into(), "s".into()).is_staff("t"));
        assert!(!Keys::new("t".into(), "s".into()).is_staff("T"));
    }
}
