#include "common/tls/verify.h"

#include <arpa/inet.h>

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "common/base/status.h"
#include "common/tls/openssl.h"

namespace sdp {
namespace {

constexpr size_t kMostNamesShown = 8, kMostCharactersShown = 64;

std::string Shown(absl::string_view text) {
  return absl::CHexEscape(text.substr(0, kMostCharactersShown));
}

std::vector<X509Ptr> ParseAll(absl::string_view pem) {
  const BioPtr bio = ReadFrom(pem);
  std::vector<X509Ptr> all;
  while (X509* const next = PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr))
    all.emplace_back(next);
  ERR_clear_error();  // "no start line": the end
  return all;
}

std::string CommonName(const X509_NAME* name) {
  char text[256] = {};
  const int size = X509_NAME_get_text_by_NID(name, NID_commonName, text, sizeof(text));
  return Shown(absl::string_view(text, static_cast<size_t>(std::max(0, size))));
}

std::string TimeText(const ASN1_TIME* time) {
  std::tm fields = {};
  if (ASN1_TIME_to_tm(time, &fields) != 1) return "an unreadable time";
  return absl::FormatTime("%Y-%m-%d %H:%M:%S UTC", absl::FromTM(fields, absl::UTCTimeZone()),
                          absl::UTCTimeZone());
}

// The names that a certificate is good for.
std::string Hosts(X509* certificate) {
  std::vector<std::string> hosts;
  const NamesPtr names(static_cast<GENERAL_NAMES*>(
      X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr)));
  for (int i = 0; names != nullptr && i < sk_GENERAL_NAME_num(names.get()); ++i) {
    const GENERAL_NAME* const name = sk_GENERAL_NAME_value(names.get(), i);
    if (name->type != GEN_DNS && name->type != GEN_IPADD) continue;
    if (hosts.size() == kMostNamesShown) return absl::StrCat(absl::StrJoin(hosts, ", "), ", ...");
    const auto* const data = reinterpret_cast<const char*>(ASN1_STRING_get0_data(name->d.ia5));
    const auto size = static_cast<size_t>(ASN1_STRING_length(name->d.ia5));
    if (name->type == GEN_DNS) {
      hosts.push_back(Shown({data, size}));
    } else if (size == 4 || size == 16) {
      char text[INET6_ADDRSTRLEN] = {};
      hosts.emplace_back(inet_ntop(size == 4 ? AF_INET : AF_INET6, data, text, sizeof(text)));
    }
  }
  return hosts.empty() ? "no host" : absl::StrJoin(hosts, ", ");
}

// "its certificate, of "worker-0" for node-1, expired at ...". gRPC does not tell where a client
// is, so its certificate's hosts must.
std::string Reason(X509_STORE_CTX* context, X509* leaf, const CertificateDemand& demand) {
  const int error = X509_STORE_CTX_get_error(context);
  X509* certificate = X509_STORE_CTX_get_current_cert(context);
  if (certificate == nullptr) certificate = leaf;
  const std::string own = absl::StrCat(
      "its certificate, of \"", CommonName(X509_get_subject_name(leaf)), "\"",
      demand.side == PeerSide::kClient ? absl::StrCat(" for ", Hosts(leaf)) : "", ", ");
  const std::string whose =
      X509_STORE_CTX_get_error_depth(context) == 0
          ? own
          : absl::StrCat("the issuer \"", CommonName(X509_get_subject_name(certificate)), "\" of ",
                         own);
  switch (error) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
      return absl::StrCat(whose, "expired at ", TimeText(X509_get0_notAfter(certificate)));
    case X509_V_ERR_CERT_NOT_YET_VALID:
      return absl::StrCat(whose, "is not valid before ", TimeText(X509_get0_notBefore(certificate)),
                          ": compare the clocks");
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
      return absl::StrCat(whose, "is for ", Hosts(leaf), ", not for ", Shown(demand.host));
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_CERT_SIGNATURE_FAILURE:
      return absl::StrCat(own, "is signed by \"", CommonName(X509_get_issuer_name(leaf)),
                          "\", which is not the authority in security.ca");
    default:
      return absl::StrCat(whose, "is refused: ", X509_verify_cert_error_string(error));
  }
}

}  // namespace

absl::Status VerifyCertificate(const std::string& authorities, const ShownCertificate& shown,
                               const CertificateDemand& demand) {
  const std::vector<X509Ptr> leaf = ParseAll(shown.certificate);
  if (leaf.empty()) return absl::UnauthenticatedError("it shows no certificate");
  const std::vector<X509Ptr> trusted = ParseAll(authorities), between = ParseAll(shown.chain);
  if (trusted.empty()) return absl::FailedPreconditionError("security.ca has no certificate");
  const StorePtr store(X509_STORE_new());
  for (const X509Ptr& authority : trusted) X509_STORE_add_cert(store.get(), authority.get());
  STACK_OF(X509)* const untrusted = sk_X509_new_null();
  for (const X509Ptr& certificate : between) sk_X509_push(untrusted, certificate.get());
  const StoreContextPtr context(X509_STORE_CTX_new());
  X509_STORE_CTX_init(context.get(), store.get(), leaf.front().get(), untrusted);
  const bool server = demand.side == PeerSide::kServer;
  X509_STORE_CTX_set_default(context.get(), server ? "ssl_server" : "ssl_client");
  X509_VERIFY_PARAM* const param = X509_STORE_CTX_get0_param(context.get());
  X509_VERIFY_PARAM_set_time(param, absl::ToTimeT(demand.now));
  if (!demand.host.empty() &&
      X509_VERIFY_PARAM_set1_ip_asc(param, demand.host.c_str()) != 1) {  // a DNS name
    X509_VERIFY_PARAM_set1_host(param, demand.host.data(), demand.host.size());
    X509_VERIFY_PARAM_set_hostflags(
        param, X509_CHECK_FLAG_NEVER_CHECK_SUBJECT | X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
  }
  const bool good = X509_verify_cert(context.get()) == 1;
  const std::string reason = good ? "" : Reason(context.get(), leaf.front().get(), demand);
  sk_X509_free(untrusted);
  ERR_clear_error();
  return good ? absl::OkStatus() : absl::UnauthenticatedError(reason);
}

absl::Status CheckServerName(const std::string& name) {
  const std::vector<absl::string_view> labels = absl::StrSplit(name, '.');
  const bool good =
      name.size() <= 253 && std::all_of(labels.begin(), labels.end(), [](absl::string_view label) {
        return !label.empty() && label.size() <= 63 &&
               std::all_of(label.begin(), label.end(),
                           [](char c) { return absl::ascii_isalnum(c) || c == '-' || c == '_'; });
      });
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "security.server_name = \"", Shown(name),
      "\": a DNS name is allowed, such as sdp or shard-0.example.org, without port or wildcard"));
}

absl::Status CheckOwnCertificate(const std::string& authorities, const std::string& chain,
                                 const std::string& key, absl::Time now) {
  const std::vector<X509Ptr> certificates = ParseAll(chain);
  if (certificates.empty())
    return absl::FailedPreconditionError("security.cert has no certificate");
  const KeyPtr parsed = ParseKey(key);
  ERR_clear_error();
  if (parsed == nullptr) {
    return absl::FailedPreconditionError("security.key has no private key without a password");
  }
  if (X509_check_private_key(certificates.front().get(), parsed.get()) != 1) {
    ERR_clear_error();
    return absl::FailedPreconditionError("security.key is not the key of security.cert");
  }
  for (const PeerSide side : {PeerSide::kServer, PeerSide::kClient}) {
    const absl::Status status = VerifyCertificate(authorities, {chain, chain}, {side, "", now});
    if (!status.ok()) {
      return absl::FailedPreconditionError(
          absl::StrCat("peers would refuse this process: ", status.message()));
    }
  }
  return absl::OkStatus();
}

}  // namespace sdp
