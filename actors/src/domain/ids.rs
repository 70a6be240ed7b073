//! Ids: `bigint` inside, opaque strings outside.
//!
//! A row's number tells a stranger how much a shop sells, so outside the engine a number is written as a prefix and
//! thirteen letters that look random. The mapping is a fixed bijection: it hides order and size, it is no secret, and
//! nothing is protected by it alone.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Crockford's alphabet: no letter that could be read as a digit.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// 13 letters of 5 bits hold 64 bits, one spare.
const LETTERS: usize = 13;
const SCATTER: u64 = 0x9e37_79b9_7f4a_7c15;
const GATHER: u64 = inverse(SCATTER);

/// The inverse of an odd number modulo 2⁶⁴, by Newton's iteration (each round doubles the right bits).
const fn inverse(odd: u64) -> u64 {
    let mut guess = odd;
    let mut round = 0;
    while round < 6 {
        guess = guess.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(guess)));
        round += 1;
    }
    guess
}

/// FNV-1a of the prefix.
const fn tag(prefix: &str) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut at = 0;
    while at < prefix.len() {
        hash = (hash ^ prefix.as_bytes()[at] as u64).wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    hash
}

fn scatter(number: i64, tag: u64) -> u64 {
    let once = (number.cast_unsigned() ^ tag).wrapping_mul(SCATTER);
    (once ^ (once >> 32)).wrapping_mul(SCATTER)
}

fn gather(scattered: u64, tag: u64) -> i64 {
    let once = scattered.wrapping_mul(GATHER);
    ((once ^ (once >> 32)).wrapping_mul(GATHER) ^ tag).cast_signed()
}

fn write_letters(value: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut letters = [0u8; LETTERS];
    for (place, letter) in letters.iter_mut().rev().enumerate() {
        *letter = ALPHABET[((value >> (5 * place)) & 31) as usize];
    }
    f.write_str(str::from_utf8(&letters).map_err(|_| fmt::Error)?)
}

fn read_letters(text: &str) -> Option<u64> {
    if text.len() != LETTERS {
        return None;
    }
    let mut value: u128 = 0;
    for letter in text.bytes() {
        let digit = ALPHABET.iter().position(|known| *known == letter)?;
        value = value << 5 | digit as u128;
    }
    u64::try_from(value).ok()
}

/// The text is no id of the kind that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a {0} id")]
pub struct IdError(&'static str);

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $noun:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, sqlx::Type)]
        #[sqlx(transparent)]
        pub struct $name(pub i64);

        impl $name {
            /// Makes the same number look different as another kind of id.
            const TAG: u64 = tag($prefix);
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!($prefix, "_"))?;
                write_letters(scatter(self.0, Self::TAG), f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let letters = text.strip_prefix(concat!($prefix, "_")).ok_or(IdError($noun))?;
                let number = read_letters(letters).map(|value| gather(value, Self::TAG));
                // only positive numbers are ever given out: most invented ids fall here
                number.filter(|number| *number > 0).map(Self).ok_or(IdError($noun))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    };
}

id!(/// A stock-keeping unit: what is counted, reserved and sold.
    SkuId, "sku", "sku");
id!(/// One buyer's order.
    OrderId, "order", "order");
id!(/// One attempt to pay an order with one provider.
    PaymentId, "payment", "payment");
id!(/// One refund of (part of) one capture.
    RefundId, "refund", "refund");
id!(/// One parcel of an order, planned or under way.
    ShipmentId, "shipment", "shipment");
id!(/// Goods of an order that come back.
    ReturnId, "return", "return");
id!(/// One provider call that was committed before it is made; its text is the provider's request id.
    TaskId, "task", "task");
id!(/// One piece of news on its way; what its Message-ID or webhook id is made of.
    NoticeId, "notice", "notice");
id!(/// A merchant's standing wish to be called.
    SubscriptionId, "hook", "subscription");
id!(/// A product of the catalogue; its SKUs are what is sold.
    ProductId, "product", "product");
id!(/// One file of stock corrections.
    ImportId, "import", "import");
id!(/// A sale: some SKUs, for a while, at a price of their own.
    SaleId, "sale", "sale");

/// The running number of an event in its order's timeline, from 1 (the placement); also the order's version.
pub type EventSeq = i32;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_id_survives_its_text(number in 1i64..) {
            prop_assert_eq!(SkuId(number).to_string().parse(), Ok(SkuId(number)));
        }

        #[test]
        fn no_text_is_a_panic(text in ".{0,40}") {
            let _ = text.parse::<OrderId>();
        }
    }

    #[test]
    fn one_kind_is_not_another_and_neighbours_look_strange() {
        let order = OrderId(7).to_string();
        assert!(order.parse::<SkuId>().is_err());
        assert!(order.starts_with("order_"));
        let different = order.bytes().zip(OrderId(8).to_string().bytes()).filter(|(a, b)| a != b).count();
        assert!(different > 5, "{order} and its neighbour differ in {different} letters only");
    }
}
