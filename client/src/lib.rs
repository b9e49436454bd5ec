//! Site agent: reads its cohort, trains, uploads sealed updates.
