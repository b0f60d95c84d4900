// Goes through the scenario of SCENARIO.md with Debian's libthrift and what its compiler made. See programs.py for how it is
// called and what it prints. Compiled with LEGACY for code made from the legacy interface, which has no extensions.
#include <algorithm>
#include <iostream>
#include <map>

#include <thrift/protocol/TBinaryProtocol.h>
#include <thrift/protocol/TCompactProtocol.h>
#include <thrift/transport/TBufferTransports.h>
#include <thrift/transport/TSSLSocket.h>
#include <thrift/transport/TSocket.h>

#include "kv.h"

using namespace apache::thrift::protocol;
using namespace apache::thrift::transport;

using Options = std::map<std::string, std::string>;

static Options options_of(int count, char** arguments) {
    Options options;
    for (int place = 1; place + 1 < count; place += 2) {
        options[arguments[place]] = arguments[place + 1];
    }
    for (const char* name : {"--addresses", "--protocol", "--transport", "--prefix", "--nodes"}) {
        check(options.count(name) == 1, __FILE__, __LINE__, "missing: "s + name);
    }
    return options;
}

static std::shared_ptr<TProtocol> connect(const std::string& address, const Options& options) {
    const size_t colon = address.rfind(':');
    const std::string host = address.substr(0, colon);
    const int port = std::stoi(address.substr(colon + 1));
    std::shared_ptr<TSocket> socket = std::make_shared<TSocket>(host, port);
    if (options.count("--ca") == 1) {
        static TSSLSocketFactory factory;
        factory.authenticate(true);
        factory.loadTrustedCertificates(options.at("--ca").c_str());
        if (options.count("--cert") == 1) {
            factory.loadCertificate(options.at("--cert").c_str());
            factory.loadPrivateKey(options.at("--key").c_str());
        }
        socket = factory.createSocket(host, port);
    }
    socket->setRecvTimeout(30'000);
    std::shared_ptr<TTransport> transport;
    if (options.at("--transport") == "framed") {
        transport = std::make_shared<TFramedTransport>(socket);
    } else {
        CHECK(options.at("--transport") == "buffered");
        transport = std::make_shared<TBufferedTransport>(socket);
    }
    transport->open();
    if (options.at("--protocol") == "compact") {
        return std::make_shared<TCompactProtocol>(transport);
    }
    CHECK(options.at("--protocol") == "binary");
    return std::make_shared<TBinaryProtocol>(transport);
}

static Kv connect_all(const Options& options) {
    std::vector<std::shared_ptr<TransactionalKVClient>> clients;
    std::istringstream addresses(options.at("--addresses"));
    for (std::string address; std::getline(addresses, address, ',');) {
        clients.push_back(std::make_shared<TransactionalKVClient>(connect(address, options)));
    }
    std::optional<std::string> token;
#ifndef LEGACY
    if (options.count("--token") == 1) {
        token = options.at("--token");
        for (const auto& client : clients) {
            AuthenticateRequest request;
            request.token = *token;
            AuthenticateResponse response;
            client->authenticate(response, request);
            succeeded(response);
        }
    }
#endif
    return Kv(clients, std::stoi(options.at("--nodes")), token);
}

static std::vector<Step> all_steps() {
    std::vector<Step> steps;
    std::vector<const std::vector<Step>*> parts = {&single_keys, &versions_and_commits, &ranges, &stamps_and_the_rest};
#ifndef LEGACY
    parts.push_back(&extensions);
#endif
    for (const auto* part : parts) {
        steps.insert(steps.end(), part->begin(), part->end());
    }
    return steps;
}

int main(int count, char** arguments) try {
    const Options options = options_of(count, arguments);
    Kv kv = connect_all(options);
    int number = 0, failures = 0;
    for (const Step& step : all_steps()) {
        const Bytes key = options.at("--prefix") + "\0\xff"s + std::to_string(number++) + "/";
        try {
            step.run(kv, key);
            std::cout << "ok " << step.name << std::endl;
        } catch (const std::exception& error) {
            failures++;
            std::string why = error.what();
            std::replace(why.begin(), why.end(), '\n', ' ');
            std::cout << "FAILED " << step.name << ": " << why << std::endl;
        }
    }
    return failures == 0 ? 0 : 1;
} catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << std::endl;
    return 2;
}
