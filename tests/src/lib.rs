//! The world in one process: simulated network, reference model, invariants
