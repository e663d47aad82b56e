//! Repair schemes: the rule that says how many repair units a block gets.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use thiserror::Error;

use crate::{BlockShape, at_most_one_in_1000, miss_probability};

/// Loss rates that a target may be made for. Beyond one half a receiver is better served by
/// re-synchronization than by more repair units than units.
const LOSSES: RangeInclusive<f64> = 0.0..=0.5;

/// Miss probabilities that a target may ask for. Below the least no block can go at high loss:
/// one unit sent 32 times at loss one half is missed with probability 2e-10.
const MISSES: RangeInclusive<f64> = 1e-9..=0.5;

/// The loss that is assumed while nothing is known: the paper's lower one, of Table 3.
pub(crate) const DEFAULT_LOSS: f64 = 0.1;

/// How often a member may miss a block that it needs, unless a target says otherwise: as in the paper's Table 3.
pub(crate) const DEFAULT_MISS: f64 = 0.001;

/// How far a block may pass its bound, as a part of it: more than floating point errs by, less than
/// anybody can measure, so that a bound met exactly (1/1000 at s = 1, r = 2, loss 0.1) counts as met.
const TOLERANCE: f64 = 1e-9;

/// The rule that says how many repair units a block gets.
///
/// As text, for configuration: `rs1`, `rs2`, `alpha=0.5`, `loss=0.1,miss=0.001`, `adaptive`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RepairScheme {
    /// The paper's first: each block is missed with probability at most 1/1000 at loss 1/10 (Table 3).
    Rs1,
    /// The paper's second: each block is missed with probability at most 1/1000 at loss 1/5 (Table 3).
    Rs2,
    /// The paper's simplest: so many repair units for each unit of message, 0 to 1, rounded up in each block. It promises
    /// nothing about losses; 0 is no repair unit at all.
    Alpha(f64),
    /// Any block that a receiver needs is missed with probability at most `miss` by a receiver that loses each unit
    /// independently with probability `loss`. If it needs `b` blocks, each block gets the bound `miss / b` (the probability
    /// of a union is at most the sum), met up to a billionth of it.
    Target {
        /// Probability that a unit is lost, 0 to 0.5.
        loss: f64,
        /// Probability that the message is missed, 1e-9 to 0.5.
        miss: f64,
    },
    /// A target of 1/1000 at the loss and the bursts that members report: see [`Controller`](crate::Controller), which
    /// makes its layouts. Without reports it is the default target.
    Adaptive,
}

impl RepairScheme {
    /// Refuses a target whose numbers are out of range.
    ///
    /// Numbers in range can still ask too much of a long message; `Layout::new(MAX_MESSAGE, &scheme)`
    /// succeeds only if the scheme can carry every length.
    pub fn check(&self) -> Result<(), SchemeError> {
        match *self {
            Self::Alpha(alpha) if !(0.0..=1.0).contains(&alpha) => Err(SchemeError::Alpha(alpha)),
            Self::Target { loss, .. } if !LOSSES.contains(&loss) => Err(SchemeError::Loss(loss)),
            Self::Target { miss, .. } if !MISSES.contains(&miss) => Err(SchemeError::Miss(miss)),
            _ => Ok(()),
        }
    }

    /// The shape with the fewest repair units for a block of `s` units when a member needs `blocks_needed` blocks of the
    /// message (only a target asks; 0 counts as 1); `None` if `s` is not 1 to 16 or `s + r` would pass 32.
    pub fn shape(&self, s: u8, blocks_needed: u16) -> Option<BlockShape> {
        (0..=u8::MAX).map_while(|r| BlockShape::new(s, r).ok()).find(|shape| self.suffices(*shape, blocks_needed))
    }

    fn suffices(&self, shape: BlockShape, blocks_needed: u16) -> bool {
        let (s, r) = (shape.s(), shape.r());
        match *self {
            Self::Rs1 => at_most_one_in_1000(s, r, 10) == Some(true),
            Self::Rs2 => at_most_one_in_1000(s, r, 5) == Some(true),
            Self::Alpha(alpha) => f64::from(r) >= alpha * f64::from(s) - TOLERANCE,
            Self::Target { loss, miss } => miss_probability(s, r, loss) <= share(miss, blocks_needed),
            Self::Adaptive => Self::default().suffices(shape, blocks_needed),
        }
    }
}

/// The bound on each block so that any of those needed is missed with probability at most `miss`.
pub(crate) fn share(miss: f64, blocks_needed: u16) -> f64 {
    miss / f64::from(blocks_needed.max(1)) * (1.0 + TOLERANCE)
}

/// Loss 0.1, miss 0.001.
impl Default for RepairScheme {
    fn default() -> Self {
        Self::Target { loss: DEFAULT_LOSS, miss: DEFAULT_MISS }
    }
}

impl fmt::Display for RepairScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rs1 => f.write_str("rs1"),
            Self::Rs2 => f.write_str("rs2"),
            Self::Alpha(alpha) => write!(f, "alpha={alpha}"),
            Self::Target { loss, miss } => write!(f, "loss={loss},miss={miss}"),
            Self::Adaptive => f.write_str("adaptive"),
        }
    }
}

impl FromStr for RepairScheme {
    type Err = SchemeError;

    fn from_str(text: &str) -> Result<Self, SchemeError> {
        let scheme = match text {
            "rs1" => Self::Rs1,
            "rs2" => Self::Rs2,
            "adaptive" => Self::Adaptive,
            _ if text.starts_with("alpha=") => Self::Alpha(number(&text["alpha=".len()..])?),
            _ => {
                let unknown = || SchemeError::Unknown(text.to_owned());
                let (loss, miss) =
                    text.strip_prefix("loss=").and_then(|rest| rest.split_once(",miss=")).ok_or_else(unknown)?;
                Self::Target { loss: number(loss)?, miss: number(miss)? }
            }
        };
        scheme.check().map(|()| scheme)
    }
}

fn number(text: &str) -> Result<f64, SchemeError> {
    text.parse().map_err(|_| SchemeError::Number(text.to_owned()))
}

/// Why a repair scheme is refused.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum SchemeError {
    /// The text is none of the known forms.
    #[error(
        "repair scheme {0:?} is unknown: expected rs1, rs2, adaptive, alpha=<0 to 1> or loss=<0 to 0.5>,miss=<1e-9 to 0.5>"
    )]
    Unknown(String),
    /// A part of a target is no number.
    #[error("repair scheme: {0:?} is not a number")]
    Number(String),
    /// Alpha is out of range: with more than 1, a block of 16 units would pass 32.
    #[error("repair scheme: alpha is {0}, expected 0 to 1")]
    Alpha(f64),
    /// The loss is out of range.
    #[error("repair scheme: loss is {0}, expected 0 to 0.5")]
    Loss(f64),
    /// The miss probability is out of range.
    #[error("repair scheme: miss is {0}, expected 1e-9 to 0.5")]
    Miss(f64),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back() {
        let fine = RepairScheme::Target { loss: 0.12, miss: 1e-9 };
        let alphas = [0.0, 0.5, 1.0].map(RepairScheme::Alpha);
        let words = [RepairScheme::Rs1, RepairScheme::Rs2, RepairScheme::Adaptive];
        for scheme in words.into_iter().chain([RepairScheme::default(), fine]).chain(alphas) {
            assert_eq!(scheme.to_string().parse(), Ok(scheme));
        }
        assert_eq!("loss=0.1,miss=0.001".parse(), Ok(RepairScheme::default()));
        let repair = |alpha, s| RepairScheme::Alpha(alpha).shape(s, 1).unwrap().r();
        assert_eq!([repair(0.0, 7), repair(0.5, 7), repair(0.5, 8), repair(1.0, 16)], [0, 4, 4, 16]);
    }

    #[test]
    fn bad_texts_are_named() {
        let parse = |text: &str| text.parse::<RepairScheme>().unwrap_err();
        for text in ["", "rs3", "RS1", "rs1 ", "loss=0.1", "miss=0.1,loss=0.1", "loss=0.1;miss=0.1"] {
            assert_eq!(parse(text), SchemeError::Unknown(text.to_owned()));
        }
        assert_eq!(parse("loss=,miss=0.1"), SchemeError::Number(String::new()));
        assert_eq!(parse("loss=0.1,miss=x"), SchemeError::Number("x".to_owned()));
        assert_eq!(parse("loss=0.51,miss=0.1"), SchemeError::Loss(0.51));
        assert_eq!(parse("loss=-0.1,miss=0.1"), SchemeError::Loss(-0.1));
        assert!(matches!(parse("loss=nan,miss=0.1"), SchemeError::Loss(_)));
        assert_eq!((parse("alpha=1.1"), parse("alpha=-1")), (SchemeError::Alpha(1.1), SchemeError::Alpha(-1.0)));
        assert_eq!(parse("alpha=x"), SchemeError::Number("x".to_owned()));
        assert_eq!(parse("loss=0.1,miss=0"), SchemeError::Miss(0.0));
        assert_eq!(parse("loss=0.1,miss=inf"), SchemeError::Miss(f64::INFINITY));
    }

    #[test]
    fn a_target_meets_the_bound_that_is_met_exactly() {
        let shape = RepairScheme::default().shape(1, 1).unwrap();
        assert_eq!((shape.s(), shape.r()), (1, 2));
    }

    #[test]
    fn no_shape_beyond_the_limits() {
        assert_eq!(RepairScheme::Rs1.shape(0, 1), None);
        assert_eq!(RepairScheme::Rs1.shape(17, 1), None);
        assert_eq!(RepairScheme::Target { loss: 0.5, miss: 1e-9 }.shape(16, 1), None);
        let lossless = RepairScheme::Target { loss: 0.0, miss: 1e-9 };
        assert_eq!(lossless.shape(16, 1), BlockShape::new(16, 0).ok());
    }
}
