//! The Keystone paper's Tables 2 and 3, entry by entry, and Table 3 continued to blocks of 16.
#![allow(clippy::unwrap_used, reason = "helpers of tests: a failure fails the test")]

use fec::{RepairScheme, miss_probability};

/// `P_m(s, r, p)` for s = 1 to 10 and r = ceil(alpha * s), to three decimals. `twice_alpha` keeps it whole.
fn table_2_row(p: f64, twice_alpha: u8) -> Vec<String> {
    let entry = |s: u8| format!("{:.3}", miss_probability(s, (twice_alpha * s).div_ceil(2), p));
    (1..=10).map(entry).collect()
}

#[test]
fn table_2a() {
    let row = |twice_alpha| table_2_row(0.1, twice_alpha).join(" ");
    assert_eq!(row(0), "0.100 0.190 0.271 0.344 0.410 0.469 0.522 0.570 0.613 0.651");
    assert_eq!(row(1), "0.010 0.028 0.009 0.016 0.005 0.008 0.003 0.004 0.001 0.002");
    assert_eq!(row(2), "0.010 0.004 0.001 0.000 0.000 0.000 0.000 0.000 0.000 0.000");
}

#[test]
fn table_2b() {
    let row = |twice_alpha| table_2_row(0.2, twice_alpha).join(" ");
    assert_eq!(row(0), "0.200 0.360 0.488 0.590 0.672 0.738 0.790 0.832 0.866 0.893");
    assert_eq!(row(1), "0.040 0.104 0.058 0.099 0.056 0.086 0.050 0.073 0.044 0.061");
    assert_eq!(row(2), "0.040 0.027 0.017 0.010 0.006 0.004 0.002 0.001 0.001 0.001");
}

#[test]
fn table_3_and_its_continuation_to_16() {
    let row = |scheme: RepairScheme| (1..=16).map(|s| scheme.shape(s, 1).unwrap().r()).collect::<Vec<_>>();
    assert_eq!(row(RepairScheme::Rs1), [2, 3, 4, 4, 4, 5, 5, 5, 6, 6, 6, 7, 7, 7, 7, 8]);
    assert_eq!(row(RepairScheme::Rs2), [4, 5, 6, 6, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13]);
}

/// The paper's schemes bound each block, so the number of blocks changes nothing.
#[test]
fn table_3_is_per_block() {
    for s in 1..=16 {
        assert_eq!(RepairScheme::Rs1.shape(s, 1), RepairScheme::Rs1.shape(s, 2048));
        assert_eq!(RepairScheme::Rs2.shape(s, 1), RepairScheme::Rs2.shape(s, 2048));
    }
}
