//! Names in PayPal's style.

use uuid::Uuid;

const LETTERS: &[u8; 36] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";

/// An order, capture or refund: 17 upper-case letters and digits.
pub(super) fn resource() -> String {
    let mut number = Uuid::new_v4().as_u128();
    let mut id = String::with_capacity(17);
    for _ in 0..17 {
        id.push(char::from(LETTERS[(number % 36) as usize]));
        number /= 36;
    }
    id
}

/// A dispute: `PP-D-27803`.
pub(super) fn dispute() -> String {
    format!("PP-D-{}", Uuid::new_v4().as_u128() % 1_000_000_000_000)
}

/// A webhook event: `WH-2C707249AJ963352S-8WR62076K2971640M`.
pub(super) fn event() -> String {
    format!("WH-{}-{}", resource(), resource())
}

/// One transmission of an event: a UUID.
pub(super) fn transmission() -> String {
    Uuid::new_v4().to_string()
}

/// What `PayPal-Debug-Id` carries: 13 hexadecimal digits.
pub(super) fn debug() -> String {
    format!("{:013x}", Uuid::new_v4().as_u128() & 0xf_ffff_ffff_ffff)
}
