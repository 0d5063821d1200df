#include "common/tls/certificates.h"

#include <openssl/rand.h>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "common/base/status.h"
#include "common/tls/openssl.h"

namespace sdp {
namespace {

absl::Status Failed(absl::string_view doing) {
  return absl::InternalError(absl::StrCat(doing, ": ", OpenSslError()));
}

// The text of OpenSSL's extensions has commas and colons between names, so names have none.
absl::Status CheckHost(absl::string_view host) {
  bool good = !host.empty() && host.size() <= 253;
  for (const char c : host)
    good = good && (absl::ascii_isalnum(c) || absl::StrContains("-._:*", c));
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "host \"", host, "\": neither a DNS name nor an IP address (such as 10.0.0.1 or ::1)"));
}

absl::StatusOr<std::string> AlternativeNames(const std::vector<std::string>& hosts) {
  std::vector<std::string> names;
  for (const std::string& host : hosts) {
    SDP_RETURN_IF_ERROR(CheckHost(host));
    ASN1_OCTET_STRING* const ip = a2i_IPADDRESS(host.c_str());
    ERR_clear_error();
    if (ip == nullptr && absl::StrContains(host, ':')) {
      return absl::InvalidArgumentError(
          absl::StrCat("host \"", host, "\": without a port; and it is no IPv6 address"));
    }
    names.push_back(absl::StrCat(ip == nullptr ? "DNS:" : "IP:", host));
    ASN1_OCTET_STRING_free(ip);
  }
  return absl::StrJoin(names, ",");
}

absl::Status AddExtension(X509* certificate, X509* issuer, int kind, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  const ExtensionPtr extension(X509V3_EXT_conf_nid(nullptr, &context, kind, value.c_str()));
  if (extension == nullptr || X509_add_ext(certificate, extension.get(), -1) != 1)
    return Failed(absl::StrCat("certificate extension ", value));
  return absl::OkStatus();
}

absl::Status SetName(X509_NAME* subject, const std::string& name) {
  if (name.empty() || name.size() > 64) {
    return absl::InvalidArgumentError(
        absl::StrCat("certificate name \"", name, "\": 1 to 64 characters are allowed"));
  }
  const auto* const text = reinterpret_cast<const unsigned char*>(name.data());
  if (X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, text, static_cast<int>(name.size()),
                                 -1, 0) != 1)
    return Failed(absl::StrCat("certificate name \"", name, "\""));
  return absl::OkStatus();
}

// Version, number, names and time: all but extensions and signature.
absl::StatusOr<X509Ptr> Blank(const CertificateOptions& options, EVP_PKEY* key) {
  X509Ptr certificate(X509_new());
  unsigned char number[16];
  if (RAND_bytes(number, sizeof(number)) != 1) return Failed("random numbers");
  number[0] = static_cast<unsigned char>((number[0] & 0x3f) | 0x40);  // positive, of full length
  BIGNUM* const serial = BN_bin2bn(number, sizeof(number), nullptr);
  BN_to_ASN1_INTEGER(serial, X509_get_serialNumber(certificate.get()));
  BN_free(serial);
  X509_set_version(certificate.get(), X509_VERSION_3);
  ASN1_TIME_set(X509_getm_notBefore(certificate.get()), absl::ToTimeT(options.not_before));
  ASN1_TIME_set(X509_getm_notAfter(certificate.get()), absl::ToTimeT(options.not_after));
  SDP_RETURN_IF_ERROR(SetName(X509_get_subject_name(certificate.get()), options.name));
  if (X509_set_pubkey(certificate.get(), key) != 1) return Failed("public key");
  return certificate;
}

absl::StatusOr<CertifiedKey> Written(X509* certificate, EVP_PKEY* key) {
  const BioPtr certificate_text(BIO_new(BIO_s_mem())), key_text(BIO_new(BIO_s_mem()));
  if (PEM_write_bio_X509(certificate_text.get(), certificate) != 1 ||
      PEM_write_bio_PKCS8PrivateKey(key_text.get(), key, nullptr, nullptr, 0, nullptr, nullptr) !=
          1)
    return Failed("write PEM");
  const auto text = [](BIO* bio) {
    char* data = nullptr;
    const long size = BIO_get_mem_data(bio, &data);
    return std::string(data, static_cast<size_t>(size));
  };
  return CertifiedKey{text(certificate_text.get()), text(key_text.get())};
}

struct Extension {
  int kind;
  std::string value;
};

// Signed by `issuer` with `issuer_key`; null: by itself.
absl::StatusOr<CertifiedKey> Make(const CertificateOptions& options, X509* issuer,
                                  EVP_PKEY* issuer_key, const std::vector<Extension>& extensions) {
  const KeyPtr key(EVP_EC_gen("P-256"));
  if (key == nullptr) return Failed("make a key");
  SDP_ASSIGN_OR_RETURN(const X509Ptr certificate, Blank(options, key.get()));
  if (issuer == nullptr) issuer = certificate.get();
  if (issuer_key == nullptr) issuer_key = key.get();
  X509_set_issuer_name(certificate.get(), X509_get_subject_name(issuer));
  for (const Extension& extension : extensions) {
    SDP_RETURN_IF_ERROR(AddExtension(certificate.get(), issuer, extension.kind, extension.value));
  }
  if (X509_sign(certificate.get(), issuer_key, EVP_sha256()) == 0) return Failed("sign");
  return Written(certificate.get(), key.get());
}

}  // namespace

absl::StatusOr<CertifiedKey> MakeAuthority(const CertificateOptions& options) {
  return Make(options, nullptr, nullptr,
              {{NID_basic_constraints, "critical,CA:TRUE,pathlen:0"},
               {NID_key_usage, "critical,keyCertSign,cRLSign"},
               {NID_subject_key_identifier, "hash"}});
}

absl::StatusOr<CertifiedKey> MakeCertificate(const CertifiedKey& authority,
                                             const CertificateOptions& options) {
  const BioPtr bio = ReadFrom(authority.certificate);
  const X509Ptr issuer(PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr));
  const KeyPtr issuer_key = ParseKey(authority.key);
  if (issuer == nullptr || issuer_key == nullptr) return Failed("read the authority's PEM");
  if (X509_check_private_key(issuer.get(), issuer_key.get()) != 1)
    return Failed("the authority's certificate and key");
  SDP_ASSIGN_OR_RETURN(const std::string names, AlternativeNames(options.hosts));
  std::vector<Extension> extensions = {{NID_basic_constraints, "critical,CA:FALSE"},
                                       {NID_key_usage, "critical,digitalSignature"},
                                       {NID_ext_key_usage, "serverAuth,clientAuth"},
                                       {NID_subject_key_identifier, "hash"},
                                       {NID_authority_key_identifier, "keyid"}};
  if (!names.empty()) extensions.push_back({NID_subject_alt_name, names});
  return Make(options, issuer.get(), issuer_key.get(), extensions);
}

}  // namespace sdp
