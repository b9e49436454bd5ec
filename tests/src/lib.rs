//! Tests of the workspace as a whole; there is no code here.
