//! What a site has kept: its own log, the heads that it was shown, and what it signed.

use consilium_core::SiteId;

use super::{Finding, entries, head, witness};
use crate::export::Line;
use crate::head::{Head, Notary, Witnessed};
use crate::tree::{Tree, leaf_hash};

/// A checked export of a site.
pub(super) struct Kept {
    pub site: SiteId,
    pub heads: Vec<Head>,
    pub witnessed: Vec<Witnessed>,
}

/// Checks a site's export in itself: its own log is the one whose heads it has put into its counter-signatures.
pub(super) fn kept(lines: &[Line], notary: &dyn Notary) -> Result<Kept, Finding> {
    let Some(Line::Export {
        site: Some(site), ..
    }) = lines.first()
    else {
        let problem = "a file that was given as a site's is not one";
        return Err(Finding::new("export_not_of_a_site", None, problem));
    };
    let of_the_site = |finding: Finding| {
        let problem = format!("the own log of site {site}: {}", finding.problem);
        // Its entries are not those of the server.
        Finding::new(finding.code, None, problem)
    };
    let tree: Tree = match entries(lines) {
        Ok(entries) => entries.iter().map(|entry| leaf_hash(entry)).collect(),
        Err(finding) => return Err(of_the_site(finding)),
    };
    let mut kept = Kept {
        site: site.clone(),
        heads: Vec::new(),
        witnessed: Vec::new(),
    };
    for line in lines {
        match line {
            Line::Head { signed } => kept.heads.push(head(signed, notary)?),
            Line::Witnessed { signed } => kept.witnessed.push(witness(signed, notary)?),
            _ => {}
        }
    }
    for seen in &kept.witnessed {
        let (size, root) = seen.own;
        if seen.site == *site && tree.root_at(size) != Some(root) {
            let problem = format!("its first {size} entries are not those that it has signed");
            return Err(of_the_site(Finding::new("log_rewritten", None, problem)));
        }
    }
    Ok(kept)
}
