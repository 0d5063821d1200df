#include "common/tls/certificates.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "common/tls/verify.h"

namespace sdp {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

const absl::Time kNow = absl::FromUnixSeconds(1'800'000'000);  // 2027-01-15 08:00:00 UTC

CertificateOptions For(std::vector<std::string> hosts, const std::string& name = "worker-0") {
  return {.name = name,
          .hosts = std::move(hosts),
          .not_before = kNow - absl::Hours(1),
          .not_after = kNow + absl::Hours(1)};
}

class CertificatesTest : public testing::Test {
 protected:
  absl::Status Verify(const CertifiedKey& shown, const std::string& host = "",
                      absl::Time now = kNow, PeerSide side = PeerSide::kServer) const {
    return VerifyCertificate(authority_.certificate, {shown.certificate, ""}, {side, host, now});
  }

  static CertificateOptions Authority(const std::string& name) {
    CertificateOptions options = For({}, name);
    options.not_before -= absl::Hours(24);
    options.not_after += absl::Hours(24);
    return options;
  }

  const CertifiedKey authority_ = MakeAuthority(Authority("ours")).value();
  const CertifiedKey other_ = MakeAuthority(Authority("theirs")).value();
  const CertifiedKey good_ =
      MakeCertificate(authority_, For({"shard-0.sdp.svc", "127.0.0.1", "fd00::1"})).value();
};

TEST_F(CertificatesTest, OfTheAuthority_GoodForItsHosts_OnBothSides) {
  for (const char* host : {"", "shard-0.sdp.svc", "127.0.0.1", "fd00::1"})
    EXPECT_TRUE(Verify(good_, host).ok()) << host << Verify(good_, host);
  EXPECT_TRUE(Verify(good_, "", kNow, PeerSide::kClient).ok());
}

TEST_F(CertificatesTest, AnotherHost_SaysForWhichItIs) {
  for (const char* host : {"shard-1.sdp.svc", "127.0.0.2", "worker-0", "svc"}) {
    const absl::Status status = Verify(good_, host);
    EXPECT_TRUE(absl::IsUnauthenticated(status)) << host;
    EXPECT_THAT(status.message(),
                AllOf(HasSubstr("\"worker-0\", is for shard-0.sdp.svc, 127.0.0.1, fd00::1"),
                      HasSubstr(absl::StrCat("not for ", host))));
  }
}

TEST_F(CertificatesTest, ServerNames_AreDnsNames_WithoutWildcard) {
  for (const char* name : {"sdp", "shard-0.sdp.svc", "a_b.example.org", "10.0.0.1"})
    EXPECT_TRUE(CheckServerName(name).ok()) << name;
  const std::string label(60, 'a'), long_label = absl::StrCat(label, label);
  const std::string long_name =
      absl::StrCat(label, ".", label, ".", label, ".", label, ".b.cdef.ghij");
  for (const std::string& name :
       {std::string(""), std::string("*"), std::string("*.sdp"), std::string(".sdp"),
        std::string("sdp."), std::string("a..b"), std::string("sdp:7000"), std::string("sd p"),
        std::string("sdp\n"), std::string("::1"), std::string("sdp\0x", 5), long_label,
        long_name}) {
    const absl::Status status = CheckServerName(name);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << name;
    EXPECT_THAT(status.message(),
                AllOf(HasSubstr("security.server_name = \""), HasSubstr("a DNS name is allowed")));
  }
}

TEST_F(CertificatesTest, OutsideItsTime_SaysWhichTime) {
  const absl::Status late = Verify(good_, "", kNow + absl::Hours(1) + absl::Seconds(1));
  EXPECT_THAT(late.message(), HasSubstr("expired at 2027-01-15 09:00:00 UTC"));
  const absl::Status early = Verify(good_, "", kNow - absl::Hours(1) - absl::Seconds(1));
  EXPECT_THAT(early.message(), HasSubstr("is not valid before 2027-01-15 07:00:00 UTC"));
  EXPECT_TRUE(Verify(good_, "", kNow + absl::Hours(1) - absl::Seconds(1)).ok());
  CertificateOptions long_lived = For({});
  long_lived.not_after += absl::Hours(100);
  const absl::Status orphan =
      Verify(MakeCertificate(authority_, long_lived).value(), "", kNow + absl::Hours(26));
  EXPECT_THAT(orphan.message(),
              HasSubstr("the issuer \"ours\" of its certificate, of \"worker-0\", expired at"));
}

TEST_F(CertificatesTest, AnotherAuthority_IsNamed_AndBothMayBeTrusted) {
  const CertifiedKey foreign = MakeCertificate(other_, For({"localhost"})).value();
  for (const std::string& chain : {std::string(), other_.certificate}) {
    const absl::Status status = VerifyCertificate(
        authority_.certificate, {foreign.certificate, chain}, {PeerSide::kClient, "", kNow});
    EXPECT_TRUE(absl::IsUnauthenticated(status));
    EXPECT_THAT(status.message(),
                HasSubstr("\"worker-0\" for localhost, is signed by \"theirs\", which is not"));
  }
  const std::string both = authority_.certificate + other_.certificate;
  for (const CertifiedKey* shown : {&good_, &foreign}) {
    EXPECT_TRUE(
        VerifyCertificate(both, {shown->certificate, ""}, {PeerSide::kClient, "", kNow}).ok());
  }
}

TEST_F(CertificatesTest, AnAuthorityOfTheSameName_IsAnotherOne) {
  const CertifiedKey twin = MakeAuthority(Authority("ours")).value();
  const absl::Status status = Verify(MakeCertificate(twin, For({"localhost"})).value());
  EXPECT_THAT(status.message(), HasSubstr("not the authority in security.ca"));
}

TEST_F(CertificatesTest, ACertificateSignsNoOther) {
  const CertifiedKey by_a_leaf = MakeCertificate(good_, For({"localhost"}, "thief")).value();
  EXPECT_TRUE(absl::IsUnauthenticated(VerifyCertificate(authority_.certificate,
                                                        {by_a_leaf.certificate, good_.certificate},
                                                        {PeerSide::kClient, "", kNow})));
}

TEST_F(CertificatesTest, NoCertificate_IsAnError) {
  for (const char* text : {"", "garbage", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END"}) {
    EXPECT_TRUE(absl::IsUnauthenticated(
        VerifyCertificate(authority_.certificate, {text, ""}, {PeerSide::kClient, "", kNow})));
    EXPECT_TRUE(absl::IsFailedPrecondition(
        VerifyCertificate(text, {good_.certificate, ""}, {PeerSide::kClient, "", kNow})));
  }
}

TEST_F(CertificatesTest, WhatAStrangerWrites_IsEscapedAndCut) {
  const CertifiedKey odd = MakeCertificate(other_, For({}, "two\nlines\x1b[2J")).value();
  EXPECT_THAT(Verify(odd).message(), AllOf(HasSubstr("two\\nlines\\x1b[2J"), Not(HasSubstr("\n"))));
}

TEST_F(CertificatesTest, OwnCertificate_WithKeyAndAuthority) {
  const std::string& ca = authority_.certificate;
  EXPECT_TRUE(CheckOwnCertificate(ca, good_.certificate, good_.key, kNow).ok());
  const auto problem = [&](const std::string& chain, const std::string& key, absl::Time now) {
    const absl::Status status = CheckOwnCertificate(ca, chain, key, now);
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    return std::string(status.message());
  };
  EXPECT_THAT(problem(good_.certificate, authority_.key, kNow), HasSubstr("security.key is not"));
  EXPECT_THAT(problem(good_.certificate, "", kNow), HasSubstr("security.key has no private key"));
  EXPECT_THAT(problem("", good_.key, kNow), HasSubstr("security.cert has no certificate"));
  EXPECT_THAT(problem(good_.certificate, good_.key, kNow + absl::Hours(2)), HasSubstr("expired"));
  const CertifiedKey foreign = MakeCertificate(other_, For({})).value();
  EXPECT_THAT(problem(foreign.certificate, foreign.key, kNow), HasSubstr("\"theirs\""));
}

TEST_F(CertificatesTest, NamesThatACertificateCannotHave_Invalid) {
  for (const char* host : {"", "a,IP:1.2.3.4", "host:7000", "two words", "1.2.3.4/8"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(MakeCertificate(authority_, For({host})).status())) << host;
  }
  for (const std::string& name : {std::string(), std::string(65, 'n')})
    EXPECT_TRUE(absl::IsInvalidArgument(MakeCertificate(authority_, For({}, name)).status()));
}

}  // namespace
}  // namespace sdp
