//! Measurements: limits and ratios
