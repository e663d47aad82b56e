//! Forward error correction: a rekey message to units and repair units, and back
