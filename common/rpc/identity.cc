#include "common/rpc/identity.h"

#include <grpcpp/security/auth_metadata_processor.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_certificate_verifier.h>
#include <grpcpp/security/tls_credentials_options.h>

#include <map>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "common/base/mutex.h"
#include "common/base/status.h"
#include "common/data/small_file.h"
#include "common/rpc/channel.h"
#include "common/tls/token.h"
#include "common/tls/verify.h"

namespace sdp {
namespace {

constexpr unsigned int kReloadSeconds = 1;
constexpr size_t kLargestFile = size_t{1} << 20;
constexpr absl::Duration kSayAgainAfter = absl::Minutes(1);
constexpr size_t kMostRemembered = 100;  // lines; strangers choose what is in them
constexpr char kTokenKey[] = "authorization", kTokenPrefix[] = "Bearer ";

std::string Description(const RunConfig::Security& files) {
  return absl::StrCat(
      "TLS with security.ca = ", files.ca(), ", cert = ", files.cert(), ", key = ", files.key(),
      ", token = ", files.token(),
      files.server_name().empty() ? "" : absl::StrCat(", server_name = ", files.server_name()));
}

// For channels or for one server, not for both: in gRPC 1.51 a server hears of no new certificate
// once a channel watches the same object.
std::shared_ptr<grpc::experimental::CertificateProviderInterface> WatchFiles(
    const RunConfig::Security& files) {
  return std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
      files.key(), files.cert(), files.ca(), kReloadSeconds);
}

absl::string_view View(grpc::string_ref text) { return {text.data(), text.size()}; }

// What every client would find, each in its own log, a server finds as it starts.
absl::Status CheckOwnName(const RunConfig::Security& files) {
  if (files.server_name().empty()) return absl::OkStatus();
  SDP_ASSIGN_OR_RETURN(const std::string authorities, ReadSmallFile(files.ca(), kLargestFile));
  SDP_ASSIGN_OR_RETURN(const std::string chain, ReadSmallFile(files.cert(), kLargestFile));
  const absl::Status status = VerifyCertificate(
      authorities, {chain, chain}, {PeerSide::kServer, files.server_name(), absl::Now()});
  if (status.ok()) return status;
  return absl::FailedPreconditionError(
      absl::StrCat("clients would refuse this server: ", status.message()));
}

}  // namespace

// What the objects that gRPC owns share.
class Identity::Guard {
 public:
  Guard(RunConfig::Security paths, std::string shared_token, Log log)
      : files(std::move(paths)),
        description(Description(files)),
        token(std::move(shared_token)),
        log_(std::move(log)) {}

  // Says why somebody was refused, unless that was said just now.
  void Refused(const std::string& line) ABSL_LOCKS_EXCLUDED(mutex_) {
    if (log_ == nullptr) return;
    {
      const absl::Time now = absl::Now();
      MutexLock lock(&mutex_);
      std::erase_if(said_, [&](const auto& said) { return now - said.second > kSayAgainAfter; });
      if (said_.size() >= kMostRemembered || !said_.emplace(line, now).second) return;
    }
    log_(line);
  }

  const RunConfig::Security files;
  const std::string description;
  const std::string token;

 private:
  const Log log_;
  Mutex mutex_;
  std::map<std::string, absl::Time> said_ ABSL_GUARDED_BY(mutex_);
};

// The last step of a handshake.
class Identity::Verifier final : public grpc::experimental::ExternalCertificateVerifier {
 public:
  Verifier(std::shared_ptr<Guard> guard, PeerSide side) : guard_(std::move(guard)), side_(side) {}

  bool Verify(grpc::experimental::TlsCustomVerificationCheckRequest* request,
              std::function<void(grpc::Status)>, grpc::Status* result) override {
    const absl::Status status = Check(*request);
    if (!status.ok()) {
      *result = grpc::Status(grpc::StatusCode::UNAUTHENTICATED, std::string(status.message()));
      guard_->Refused(std::string(status.message()));
    }
    return true;  // done
  }
  void Cancel(grpc::experimental::TlsCustomVerificationCheckRequest*) override {}

 private:
  absl::Status Check(const grpc::experimental::TlsCustomVerificationCheckRequest& request) const {
    const std::string dialled(View(request.target_name())), name = guard_->files.server_name();
    const std::string host = side_ == PeerSide::kClient ? "" : name.empty() ? dialled : name;
    const std::string who = side_ == PeerSide::kClient
                                ? "refused a client"
                                : absl::StrCat("refused the server ", dialled,
                                               name.empty() ? "" : " (security.server_name)");
    const absl::StatusOr<std::string> authorities = ReadSmallFile(guard_->files.ca(), kLargestFile);
    if (!authorities.ok()) {
      return Context(authorities.status(), absl::StrCat(who, ": security.ca"));
    }
    const ShownCertificate shown = {std::string(View(request.peer_cert())),
                                    std::string(View(request.peer_cert_full_chain()))};
    return Context(VerifyCertificate(*authorities, shown, {side_, host, absl::Now()}), who);
  }

  const std::shared_ptr<Guard> guard_;
  const PeerSide side_;
};

// Puts the token into each call of a client.
class Identity::TokenSender final : public grpc::MetadataCredentialsPlugin {
 public:
  explicit TokenSender(std::shared_ptr<Guard> guard) : guard_(std::move(guard)) {}
  bool IsBlocking() const override { return false; }
  const char* GetType() const override { return "sdp join token"; }
  grpc::Status GetMetadata(grpc::string_ref, grpc::string_ref, const grpc::AuthContext&,
                           std::multimap<std::string, std::string>* metadata) override {
    metadata->emplace(kTokenKey, absl::StrCat(kTokenPrefix, guard_->token));
    return grpc::Status::OK;
  }
  // What gRPC may log.
  std::string DebugString() override { return GetType(); }

 private:
  const std::shared_ptr<Guard> guard_;
};

// Looks for it in each call to a server.
class Identity::TokenCheck final : public grpc::AuthMetadataProcessor {
 public:
  explicit TokenCheck(std::shared_ptr<Guard> guard)
      : guard_(std::move(guard)), expected_(absl::StrCat(kTokenPrefix, guard_->token)) {}
  bool IsBlocking() const override { return false; }

  grpc::Status Process(const InputMetadata& metadata, grpc::AuthContext* context,
                       OutputMetadata* consumed, OutputMetadata*) override {
    const auto shown = metadata.find(kTokenKey);
    if (shown != metadata.end() && SameToken(View(shown->second), expected_)) {
      consumed->emplace(kTokenKey, std::string(View(shown->second)));
      return grpc::Status::OK;
    }
    const bool none = shown == metadata.end();
    guard_->Refused(absl::StrCat("refused a call of ", NameIn(context), " (", MethodIn(metadata),
                                 "): ", none ? "no join token" : "another join token than ours"));
    return grpc::Status(grpc::StatusCode::UNAUTHENTICATED,
                        none ? "the call came without a join token: set security.token"
                             : "another join token than the server's: compare the files that "
                               "security.token names on both sides");
  }

 private:
  static std::string NameIn(grpc::AuthContext* context) {
    const std::vector<grpc::string_ref> names = context->FindPropertyValues("x509_common_name");
    if (names.empty()) return "a client";
    return absl::StrCat("\"", absl::CHexEscape(View(names.front()).substr(0, 64)), "\"");
  }
  static std::string MethodIn(const InputMetadata& metadata) {
    const auto path = metadata.find(":path");
    return path == metadata.end() ? "unknown" : absl::CHexEscape(View(path->second).substr(0, 64));
  }

  const std::shared_ptr<Guard> guard_;
  const std::string expected_;
};

absl::StatusOr<std::shared_ptr<const Identity>> Identity::Load(const RunConfig::Security& files,
                                                               Log log) {
  std::map<std::string, std::string> texts;
  for (const auto& [key, path] : {std::pair<std::string, std::string>("ca", files.ca()),
                                  {"cert", files.cert()},
                                  {"key", files.key()},
                                  {"token", files.token()}}) {
    if (path.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "security.", key, " is missing: TLS needs all of security.ca, cert, key and token"));
    }
    absl::StatusOr<std::string> text = ReadSmallFile(path, kLargestFile);
    if (!text.ok()) return Context(text.status(), absl::StrCat("security.", key));
    texts[key] = *std::move(text);
  }
  if (!files.server_name().empty()) SDP_RETURN_IF_ERROR(CheckServerName(files.server_name()));
  const std::string names = Description(files);
  SDP_RETURN_IF_ERROR(
      Context(CheckOwnCertificate(texts["ca"], texts["cert"], texts["key"], absl::Now()), names));
  absl::StatusOr<std::string> token = ParseToken(texts["token"]);
  if (!token.ok()) return Context(token.status(), absl::StrCat(names, ": security.token"));
  KeepGrpc();
  return std::shared_ptr<const Identity>(
      new Identity(std::make_shared<Guard>(files, *std::move(token), std::move(log))));
}

Identity::Identity(std::shared_ptr<Guard> guard) : guard_(std::move(guard)) {
  grpc::experimental::TlsChannelCredentialsOptions options;
  options.set_certificate_provider(WatchFiles(guard_->files));
  options.watch_identity_key_cert_pairs();
  options.watch_root_certs();
  options.set_verify_server_certs(false);  // the verifier does, and says what is wrong
  options.set_check_call_host(false);
  options.set_certificate_verifier(
      grpc::experimental::ExternalCertificateVerifier::Create<Verifier>(guard_, PeerSide::kServer));
  channel_ = grpc::CompositeChannelCredentials(
      grpc::experimental::TlsCredentials(options),
      grpc::MetadataCredentialsFromPlugin(std::make_unique<TokenSender>(guard_)));
}

const std::string& Identity::description() const { return guard_->description; }

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> Identity::NewServerCredentials() const {
  SDP_RETURN_IF_ERROR(Context(CheckOwnName(guard_->files), guard_->description));
  grpc::experimental::TlsServerCredentialsOptions options(WatchFiles(guard_->files));
  options.watch_identity_key_cert_pairs();
  // Required and proved by the handshake, verified by the verifier.
  options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_BUT_DONT_VERIFY);
  options.set_certificate_verifier(
      grpc::experimental::ExternalCertificateVerifier::Create<Verifier>(guard_, PeerSide::kClient));
  const std::shared_ptr<grpc::ServerCredentials> credentials =
      grpc::experimental::TlsServerCredentials(options);
  credentials->SetAuthMetadataProcessor(std::make_shared<TokenCheck>(guard_));
  return credentials;
}

absl::StatusOr<SecurityOptions> LoadSecurity(const RunConfig::Security& files,
                                             const SecurityOptions& plaintext, Identity::Log log) {
  if (files.ca().empty() && files.cert().empty() && files.key().empty() && files.token().empty() &&
      files.server_name().empty())
    return plaintext;
  SecurityOptions security = plaintext;  // of what has no TLS, such as /metrics
  SDP_ASSIGN_OR_RETURN(security.identity, Identity::Load(files, std::move(log)));
  return security;
}

}  // namespace sdp
