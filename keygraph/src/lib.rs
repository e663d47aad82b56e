//! Key graphs: which keys a change of members makes new, and who learns them how
