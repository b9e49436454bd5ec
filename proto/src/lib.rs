//! Wire messages, their conversion to domain types, and size limits.
