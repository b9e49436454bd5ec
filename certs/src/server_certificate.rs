//! Certificates of servers: the only ones with host names, and the only ones that answer calls.

use std::path::Path;

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, SubjectPublicKeyInfo};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::authority::{name, valid};
use crate::files::{certificate_pem, read_certificates, replace_public};
use crate::validity::{CERTIFICATE_DAYS, Validity};
use crate::{Authority, CertificateError, Issued, Peer, Role};

impl Authority {
    /// Issues a server certificate for host names or addresses: `server.pem`, `server.key` in `folder`.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn issue_server(&self, hosts: &[String], folder: &Path) -> Result<(), CertificateError> {
        let params = server_params(hosts)?;
        self.issue(params, folder, "server")
    }

    /// Replaces a server certificate of this authority by one for the same names and key and another 90 days.
    ///
    /// # Errors
    /// [`CertificateError`]; the file then stays as it was.
    pub fn renew_server(&self, certificate: &Path) -> Result<Issued, CertificateError> {
        let old = read_certificates(certificate)?.swap_remove(0);
        Peer::of(&old)?.expect(Role::Server)?;
        let (_, parsed) = X509Certificate::from_der(&old).map_err(CertificateError::library)?;
        let (_, root) = X509Certificate::from_der(&self.root).map_err(CertificateError::library)?;
        parsed
            .verify_signature(Some(root.public_key()))
            .map_err(|_| CertificateError::OtherAuthority)?;
        let key = SubjectPublicKeyInfo::from_der(parsed.public_key().raw)
            .map_err(CertificateError::library)?;
        let hosts = hosts_of(&parsed);
        let issued = self.sign(server_params(&hosts)?, &key)?;
        replace_public(certificate, &certificate_pem(&issued.certificate))?;
        Ok(issued)
    }
}

fn server_params(hosts: &[String]) -> Result<CertificateParams, CertificateError> {
    let mut params = CertificateParams::new(hosts.to_vec()).map_err(CertificateError::library)?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let common_name = hosts.first().map_or("server", String::as_str);
    name(&mut params, common_name, Role::Server.as_str());
    valid(&mut params, Validity::days(CERTIFICATE_DAYS));
    Ok(params)
}

/// The host names and addresses in a certificate.
fn hosts_of(certificate: &X509Certificate<'_>) -> Vec<String> {
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.map_or(&[][..], |names| &names.value.general_names);
    let host = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => <[u8; 4]>::try_from(*bytes)
            .map(|bytes| std::net::IpAddr::from(bytes).to_string())
            .or_else(|_| {
                <[u8; 16]>::try_from(*bytes).map(|bytes| std::net::IpAddr::from(bytes).to_string())
            })
            .ok(),
        _ => None,
    };
    names.iter().filter_map(host).collect()
}
