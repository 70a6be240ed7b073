//! Money: integer minor units and a currency; decimal only at the edges.

use std::{fmt, str::FromStr};

use rust_decimal::{Decimal, prelude::ToPrimitive};
use serde::{Deserialize, Serialize, ser::SerializeStruct};

/// The currencies Souk sells in, each with the number of decimals that *every* provider on offer can charge.
///
/// ISO 4217 gives HUF and TWD two decimals, PayPal charges none: a price is kept at the strictest, so that a quote, an
/// order and a capture can never differ by a rounding. Source: PayPal's currency codes, ISO 4217.
const CURRENCIES: [([u8; 3], u8); 24] = [
    (*b"AUD", 2),
    (*b"BRL", 2),
    (*b"CAD", 2),
    (*b"CHF", 2),
    (*b"CNY", 2),
    (*b"CZK", 2),
    (*b"DKK", 2),
    (*b"EUR", 2),
    (*b"GBP", 2),
    (*b"HKD", 2),
    (*b"HUF", 0),
    (*b"ILS", 2),
    (*b"INR", 2),
    (*b"JPY", 0),
    (*b"MXN", 2),
    (*b"MYR", 2),
    (*b"NOK", 2),
    (*b"NZD", 2),
    (*b"PHP", 2),
    (*b"PLN", 2),
    (*b"SEK", 2),
    (*b"SGD", 2),
    (*b"TWD", 0),
    (*b"USD", 2),
];

/// No amount above this is taken: a hundred billion minor units, far from every overflow.
const LIMIT: i64 = 100_000_000_000;

/// What was read is no money.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// Not one of the currencies that can be paid.
    #[error(
        "this currency is not sold in; use one of AUD BRL CAD CHF CNY CZK DKK EUR GBP HKD HUF ILS INR JPY MXN MYR NOK NZD PHP PLN SEK SGD TWD USD"
    )]
    Currency,
    /// Not a plain decimal number such as `12.50`.
    #[error("an amount is a decimal number in a string, such as \"12.50\"")]
    Amount,
    /// More decimals than the currency can be charged with.
    #[error("more decimals than this currency can be charged with")]
    Precision,
    /// Negative, or past the limit.
    #[error("an amount lies between 0 and {LIMIT} minor units")]
    Range,
    /// Two currencies met in one sum.
    #[error("amounts of different currencies cannot be added")]
    Mixed,
}

/// A currency that can be paid, by its ISO 4217 code.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency {
    code: [u8; 3],
    exponent: u8,
}

impl Currency {
    /// The three upper-case letters.
    #[must_use]
    pub fn code(&self) -> &str {
        str::from_utf8(&self.code).unwrap_or("XXX")
    }

    /// How many decimals an amount has.
    #[must_use]
    pub fn exponent(&self) -> u32 {
        u32::from(self.exponent)
    }
}

impl FromStr for Currency {
    type Err = MoneyError;
    fn from_str(text: &str) -> Result<Self, MoneyError> {
        let known = CURRENCIES.iter().find(|(code, _)| code.as_slice() == text.as_bytes());
        known.map(|(code, exponent)| Self { code: *code, exponent: *exponent }).ok_or(MoneyError::Currency)
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl Serialize for Currency {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// An amount of one currency. On the wire: `{"amount":"12.50","currency":"USD"}`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Money {
    /// In minor units: cents of a dollar, whole yen.
    pub minor: i64,
    /// What the units are of.
    pub currency: Currency,
}

impl Money {
    /// An amount that the engine has already checked.
    #[must_use]
    pub fn new(minor: i64, currency: Currency) -> Self {
        Self { minor, currency }
    }

    /// Reads `"12.50"`; `1e2`, spaces, signs and too many decimals are errors.
    ///
    /// # Errors
    /// [`MoneyError::Amount`], [`MoneyError::Precision`] or [`MoneyError::Range`].
    pub fn parse(amount: &str, currency: Currency) -> Result<Self, MoneyError> {
        let plain = !amount.is_empty() && amount.len() <= 20 && amount.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        if !plain || amount.starts_with('.') || amount.ends_with('.') {
            return Err(MoneyError::Amount);
        }
        let decimal = Decimal::from_str_exact(amount).map_err(|_| MoneyError::Amount)?.normalize();
        if decimal.scale() > currency.exponent() {
            return Err(MoneyError::Precision);
        }
        let factor = Decimal::from(10u32.pow(currency.exponent()));
        let minor = decimal.checked_mul(factor).and_then(|scaled| scaled.to_i64()).ok_or(MoneyError::Range)?;
        if minor > LIMIT {
            return Err(MoneyError::Range);
        }
        Ok(Self { minor, currency })
    }

    /// The amount as providers and pages write it: `12.50`, `1200` for yen.
    #[must_use]
    pub fn amount(&self) -> String {
        Decimal::new(self.minor, self.currency.exponent()).to_string()
    }

    /// `quantity` times this.
    ///
    /// # Errors
    /// [`MoneyError::Range`] past the limit.
    pub fn times(&self, quantity: i64) -> Result<Self, MoneyError> {
        let minor =
            self.minor.checked_mul(quantity).filter(|minor| (0..=LIMIT).contains(minor)).ok_or(MoneyError::Range)?;
        Ok(Self { minor, ..*self })
    }

    /// The sum of the two.
    ///
    /// # Errors
    /// [`MoneyError::Mixed`] or [`MoneyError::Range`].
    pub fn plus(&self, other: Self) -> Result<Self, MoneyError> {
        if self.currency != other.currency {
            return Err(MoneyError::Mixed);
        }
        let minor =
            self.minor.checked_add(other.minor).filter(|minor| (0..=LIMIT).contains(minor)).ok_or(MoneyError::Range)?;
        Ok(Self { minor, ..*self })
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.amount(), self.currency)
    }
}

impl fmt::Debug for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Money {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Money", 2)?;
        object.serialize_field("amount", &self.amount())?;
        object.serialize_field("currency", &self.currency)?;
        object.end()
    }
}

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Wire {
            amount: String,
            currency: Currency,
        }
        let wire = Wire::deserialize(deserializer)?;
        Self::parse(&wire.amount, wire.currency).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn usd() -> Currency {
        "USD".parse().expect("known")
    }

    #[test]
    fn what_is_no_amount_is_refused() {
        for bad in ["", ".", ".5", "5.", "-1", "+1", "1e2", " 1", "1,5", "0x1", "1.2.3", "999999999999999999999"] {
            assert_eq!(Money::parse(bad, usd()), Err(MoneyError::Amount), "{bad}");
        }
        assert_eq!(Money::parse("1.001", usd()), Err(MoneyError::Precision));
        assert_eq!(Money::parse("1.5", "HUF".parse().expect("known")), Err(MoneyError::Precision));
        assert_eq!(Money::parse("1000000000.01", usd()), Err(MoneyError::Range));
        assert_eq!(Money::parse("1.500", usd()), Ok(Money::new(150, usd())), "a trailing zero is no decimal");
    }

    proptest! {
        #[test]
        fn money_survives_its_text(minor in 0..=LIMIT, which in 0..CURRENCIES.len()) {
            let currency: Currency = str::from_utf8(&CURRENCIES[which].0).expect("ascii").parse().expect("known");
            let money = Money::new(minor, currency);
            prop_assert_eq!(Money::parse(&money.amount(), currency), Ok(money));
        }

        #[test]
        fn no_text_is_a_panic(text in ".{0,30}") {
            let _ = Money::parse(&text, usd());
        }
    }
}
