PRAGMA application_id = 1819045219;
BEGIN TRANSACTION;
CREATE TABLE budget_windows (
            key TEXT NOT NULL PRIMARY KEY,
            start_ms INTEGER NOT NULL,
            end_ms INTEGER NOT NULL,
            run_id TEXT, profile TEXT, provider TEXT, model TEXT, user TEXT, tags TEXT,
            spent_pico INTEGER NOT NULL,
            held_pico INTEGER NOT NULL,
            warned TEXT NOT NULL DEFAULT '0',
            made_ms INTEGER NOT NULL,
            pid INTEGER NOT NULL, birth TEXT NOT NULL, world TEXT NOT NULL
        ) WITHOUT ROWID
        ;
INSERT INTO "budget_windows" VALUES('late 1799971200000',1799971200000,1800057600000,NULL,NULL,NULL,NULL,NULL,NULL,2705170975430,3502721810000,'0',1800000000000,1,'1','another-boot pid:[4026531836]');
INSERT INTO "budget_windows" VALUES('latest 1799971200000',1799971200000,1800057600000,NULL,NULL,NULL,'prod',NULL,NULL,116856453840,1579292099000,'0',1799981052000,1,'1','another-boot pid:[4026531836]');
INSERT INTO "budget_windows" VALUES('mini 1799971200000',1799971200000,1800057600000,NULL,NULL,NULL,'gpt-5-mini',NULL,NULL,1898327789590,1400000000000,'0',1799978867000,1,'1','another-boot pid:[4026531836]');
INSERT INTO "budget_windows" VALUES('nightly 1799971200000',1799971200000,1800057600000,NULL,NULL,NULL,NULL,NULL,'{"job": "nightly"}',0,913848832000,'0',1799983909000,1,'1','another-boot pid:[4026531836]');
INSERT INTO "budget_windows" VALUES('slow 1799971200000',1799971200000,1800057600000,NULL,'slow',NULL,NULL,'ann',NULL,956097144320,523429711000,'0',1799978867000,1,'1','another-boot pid:[4026531836]');
INSERT INTO "budget_windows" VALUES('team 1799971200000',1799971200000,1800057600000,NULL,NULL,NULL,NULL,NULL,NULL,2705170975430,3502721810000,'0',1799978867000,1,'1','another-boot pid:[4026531836]');
CREATE TABLE calls (
                call_id TEXT NOT NULL PRIMARY KEY,
                run_id TEXT NOT NULL,
                started_ms INTEGER NOT NULL,
                profile TEXT NOT NULL,
                provider TEXT NOT NULL,
                model TEXT NOT NULL,
                tags TEXT NOT NULL,
                user TEXT NOT NULL,
                input_tokens INTEGER NOT NULL,
                output_tokens INTEGER NOT NULL,
                cached_tokens INTEGER NOT NULL,
                cache_write_tokens INTEGER NOT NULL,
                reasoning_tokens INTEGER NOT NULL,
                estimated INTEGER NOT NULL,
                cost_pico INTEGER,
                saved_pico INTEGER,
                uncertain INTEGER NOT NULL,
                uncertain_pico INTEGER,
                latency_ms INTEGER,
                elapsed_ms INTEGER,
                first_token_ms INTEGER,
                attempts INTEGER,
                status TEXT NOT NULL
                    CHECK (status IN ('ok', 'error', 'interrupted', 'cancelled', 'unknown')),
                error_type TEXT,
                cache TEXT,
                http_status INTEGER,
                provider_request_id TEXT
            ) WITHOUT ROWID
            ;
INSERT INTO "calls" VALUES('01run-a000000000000000000','run-a',1799748576000,'fast','openai','gpt-5-mini-2026-05-01','{"job":"nightly"}','ann',312,48,7,5,3,0,310360407500,NULL,1,620720815000,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-a000000000000000001','run-a',1799824806000,'slow','openai','prod','{"team":"x"}','ann',1000,500,0,0,0,1,250000000000,NULL,0,0,NULL,1500,250,0,'error','timeout',NULL,NULL,NULL);
INSERT INTO "calls" VALUES('01run-a000000000000000002','run-a',1799930151000,'slow','openai','prod','{}','ann',1000,500,0,0,0,1,268431885000,NULL,0,0,NULL,1500,250,0,'unknown','timeout',NULL,NULL,NULL);
INSERT INTO "calls" VALUES('01run-a000000000000000003','run-a',1799961663000,'fast','openai','gpt-5-mini-2026-05-01','{"job":"nightly"}','ann',312,48,7,5,3,0,204873153500,NULL,1,409746307000,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-a000000000000000004','run-a',1799899714000,'slow','openai','prod','{}','ann',312,48,7,5,3,0,228295832080,NULL,0,0,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-a000000000000000005','run-a',1799742926000,'slow','openai','gpt-5-mini-2026-05-01','{"job":"nightly"}','ann',312,48,7,5,3,0,23762244500,NULL,1,47524489000,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-a000000000000000006','run-a',1799866724000,'fast','openai','prod-2026-05-01','{"team":"x"}','ann',312,48,7,5,3,0,35383125960,NULL,0,0,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-a000000000000000007','run-a',1799858397000,'slow','openai','prod-chat','{}','ann',312,48,7,5,3,0,578738332160,NULL,0,0,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-a000000000000000008','run-a',1799783240000,'slow','openai','prod-chat','{"team":"x"}','ann',0,0,0,0,0,0,0,NULL,0,0,NULL,1500,250,0,'error','rate_limited',NULL,NULL,NULL);
INSERT INTO "calls" VALUES('01run-a000000000000000009','run-a',1799791449000,'slow','openai','prod-chat','{}','ann',312,48,7,5,3,0,NULL,NULL,0,0,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-a000000000000000010','run-a',1799884823000,'slow','openai','prod','{"job":"nightly"}','ann',0,0,0,0,0,0,0,NULL,0,0,NULL,1500,250,0,'error','rate_limited',NULL,NULL,NULL);
INSERT INTO "calls" VALUES('01run-a000000000000000011','run-a',1799899433000,'fast','openai','gpt-5-mini','{"job":"nightly"}','ann',0,0,0,0,0,0,0,NULL,0,0,NULL,1500,250,0,'error','rate_limited',NULL,NULL,NULL);
INSERT INTO "calls" VALUES('01run-a000000000000000012','run-a',1799923027000,'fast','openai','gpt-5-mini','{"job":"nightly"}','ann',312,48,7,5,3,0,763453412720,NULL,0,0,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-a000000000000000013','run-a',1799782703000,'fast','openai','gpt-5-mini-2026-05-01','{"job":"nightly"}','ann',312,48,7,5,3,0,130257060500,NULL,1,260514121000,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-b000000000000000000','run-b',1799883245000,'fast','openai','prod-chat-2026-05-01','{"team":"x"}','ann',312,48,7,5,3,0,615937296240,NULL,0,0,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-b000000000000000001','run-b',1799923897000,'slow','openai','prod-2026-05-01','{}','ann',312,48,7,5,3,0,325036099440,NULL,0,0,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-b000000000000000002','run-b',1799759316000,'slow','openai','gpt-5-mini-2026-05-01','{"job":"nightly"}','ann',312,48,7,5,3,0,62314238560,NULL,0,0,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-b000000000000000003','run-b',1799978867000,'slow','openai','gpt-5-mini-2026-05-01','{}','ann',312,48,7,5,3,0,65394731360,NULL,0,0,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-b000000000000000004','run-b',1799981052000,'slow','openai','prod','{"team":"x"}','ann',312,48,7,5,3,0,116856453840,NULL,0,0,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-b000000000000000005','run-b',1799991904000,'fast','openai','prod-chat','{}','ann',1000,500,0,0,0,1,689986732000,NULL,0,0,NULL,1500,250,0,'unknown','timeout',NULL,NULL,NULL);
INSERT INTO "calls" VALUES('01run-b000000000000000006','run-b',1799870058000,'fast','openai','prod','{"job":"nightly"}','ann',312,48,7,5,3,0,648929187410,NULL,0,0,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-b000000000000000007','run-b',1799991056000,'fast','openai','prod','{}','ann',0,0,0,0,0,0,0,NULL,0,0,NULL,1500,250,0,'error','rate_limited',NULL,NULL,NULL);
INSERT INTO "calls" VALUES('01run-b000000000000000008','run-b',1799782609000,'slow','openai','gpt-5-mini-2026-05-01','{"job":"nightly"}','ann',312,48,7,5,3,0,25480687180,NULL,0,0,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-b000000000000000009','run-b',1799962829000,'slow','openai','prod','{"team":"x"}','ann',312,48,7,5,3,0,379206570770,NULL,0,0,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-b000000000000000010','run-b',1799850687000,'fast','openai','prod-chat-2026-05-01','{"team":"x"}','ann',312,48,7,5,3,0,6987863400,NULL,0,0,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-b000000000000000011','run-b',1799787473000,'fast','openai','gpt-5-mini-2026-05-01','{"job":"nightly"}','ann',312,48,7,5,3,0,504981218300,NULL,0,0,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-b000000000000000012','run-b',1799888903000,'slow','openai','gpt-5-mini-2026-05-01','{"team":"x"}','ann',312,48,7,5,3,0,523062581600,NULL,0,0,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-b000000000000000013','run-b',1799919857000,'slow','openai','prod-2026-05-01','{"job":"nightly"}','ann',312,48,7,5,3,0,398260913260,NULL,0,0,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-b000000000000000014','run-b',1799933223000,'slow','openai','prod-chat-2026-05-01','{"job":"nightly"}','ann',312,48,7,5,3,0,NULL,NULL,0,0,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-b000000000000000015','run-b',1799775134000,'fast','openai','prod-chat-2026-05-01','{"job":"nightly"}','ann',312,48,7,5,3,0,324995184360,NULL,0,0,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-b000000000000000016','run-b',1799936874000,'slow','openai','gpt-5-mini-2026-05-01','{"team":"x"}','ann',312,48,7,5,3,0,212888444000,NULL,1,425776888000,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-b000000000000000017','run-b',1799790844000,'fast','openai','gpt-5-mini','{}','ann',312,48,7,5,3,0,317198594880,NULL,0,0,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-b000000000000000018','run-b',1799971126000,'fast','openai','prod','{}','ann',312,48,7,5,3,0,269072145760,NULL,0,0,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-b000000000000000019','run-b',1799912083000,'fast','openai','prod-chat','{"team":"x"}','ann',312,48,7,5,3,0,385580258630,NULL,0,0,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-b000000000000000020','run-b',1799830678000,'slow','openai','prod','{"team":"x"}','ann',312,48,7,5,3,0,308444253300,NULL,0,0,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-b000000000000000021','run-b',1800008773000,'fast','openai','gpt-5-mini','{"team":"x"}','ann',312,48,7,5,3,0,731783962040,NULL,0,0,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-b000000000000000022','run-b',1799973973000,'slow','openai','gpt-5-mini-2026-05-01','{}','ann',312,48,7,5,3,0,773845959120,NULL,0,0,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-b000000000000000023','run-b',1799920813000,'fast','openai','prod-2026-05-01','{"job":"nightly"}','ann',312,48,7,5,3,0,114782528640,NULL,0,0,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-b000000000000000024','run-b',1799839084000,'slow','openai','prod-chat','{}','ann',312,48,7,5,3,0,20864473120,NULL,0,0,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-b000000000000000025','run-b',1799827566000,'slow','openai','gpt-5-mini','{"team":"x"}','ann',312,48,7,5,3,0,12801879120,NULL,0,0,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-b000000000000000026','run-b',1799838095000,'fast','openai','prod-chat','{"team":"x"}','ann',312,48,7,5,3,0,379302067480,NULL,0,0,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-b000000000000000027','run-b',1799842999000,'slow','openai','gpt-5-mini','{"job":"nightly"}','ann',312,48,7,5,3,0,791083757050,NULL,0,0,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-b000000000000000028','run-b',1799833178000,'slow','openai','prod-2026-05-01','{}','ann',312,48,7,5,3,0,154273266150,NULL,0,0,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-b000000000000000029','run-b',1799802864000,'slow','openai','gpt-5-mini-2026-05-01','{"job":"nightly"}','ann',312,48,7,5,3,0,436565410000,NULL,1,873130820000,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-c000000000000000000','run-c',1799839629000,'fast','openai','prod','{"job":"nightly"}','bob',312,48,7,5,3,0,3745100950,NULL,0,0,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-c000000000000000001','run-c',1799834221000,'fast','openai','prod-chat-2026-05-01','{"job":"nightly"}','bob',312,48,7,5,3,0,221710077840,NULL,0,0,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-c000000000000000002','run-c',1799892424000,'fast','openai','gpt-5-mini','{}','bob',312,48,7,5,3,0,43741952960,NULL,0,0,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-c000000000000000003','run-c',1799960339000,'slow','openai','prod-chat','{"team":"x"}','bob',312,48,7,5,3,0,100429318880,NULL,0,0,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-c000000000000000004','run-c',1799834050000,'fast','openai','gpt-5-mini','{"team":"x"}','bob',0,0,0,0,0,0,0,NULL,0,0,NULL,1500,250,0,'error','rate_limited',NULL,NULL,NULL);
INSERT INTO "calls" VALUES('01run-c000000000000000005','run-c',1799968330000,'slow','openai','gpt-5-mini','{}','bob',312,48,7,5,3,0,49761687500,NULL,0,0,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-c000000000000000006','run-c',1799981503000,'fast','openai','gpt-5-mini','{"team":"x"}','bob',312,48,7,5,3,0,327303137070,NULL,0,0,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-c000000000000000007','run-c',1799931947000,'slow','openai','prod','{"team":"x"}','bob',312,48,7,5,3,0,176075577470,NULL,0,0,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-c000000000000000008','run-c',1799886567000,'fast','openai','prod','{}','bob',1000,500,0,0,0,1,164932249000,NULL,0,0,NULL,1500,250,0,'unknown','timeout',NULL,NULL,NULL);
INSERT INTO "calls" VALUES('01run-c000000000000000009','run-c',1799803916000,'slow','openai','gpt-5-mini-2026-05-01','{}','bob',312,48,7,5,3,0,288338937000,NULL,1,576677874000,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-c000000000000000010','run-c',1799965013000,'slow','openai','gpt-5-mini','{"team":"x"}','bob',312,48,7,5,3,0,228625196300,NULL,0,0,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('01run-c000000000000000011','run-c',1799851402000,'fast','openai','prod-chat','{}','bob',312,48,7,5,3,0,617632991170,NULL,0,0,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
INSERT INTO "calls" VALUES('02run-a000000000000000000','run-a',1800000000000,'fast','openai','gpt-5-mini-2026-05-01','{"team":"search","\u00fcn\u00efcode":"\u2713"}','ann',312,48,7,5,3,0,0,10000000000,0,0,912,1500,250,0,'ok',NULL,'hit',200,'req_1');
INSERT INTO "calls" VALUES('02run-a000000000000000001','run-a',1800000000000,'fast','openai','gpt-5-mini-2026-05-01','{"team":"search","\u00fcn\u00efcode":"\u2713"}','ann',312,48,7,5,3,0,0,10000000000,0,0,912,1500,250,0,'ok',NULL,'hit',200,'req_1');
INSERT INTO "calls" VALUES('02run-a000000000000000002','run-a',1800000000000,'fast','openai','gpt-5-mini-2026-05-01','{"team":"search","\u00fcn\u00efcode":"\u2713"}','ann',312,48,7,5,3,0,0,10000000000,0,0,912,1500,250,0,'ok',NULL,'hit',200,'req_1');
INSERT INTO "calls" VALUES('02run-a000000000000000003','run-a',1800000000000,'fast','openai','gpt-5-mini-2026-05-01','{"team":"search","\u00fcn\u00efcode":"\u2713"}','ann',312,48,7,5,3,0,0,10000000000,0,0,912,1500,250,0,'ok',NULL,'hit',200,'req_1');
INSERT INTO "calls" VALUES('02run-a000000000000000004','run-a',1800000000000,'fast','openai','gpt-5-mini-2026-05-01','{"team":"search","\u00fcn\u00efcode":"\u2713"}','ann',312,48,7,5,3,0,0,10000000000,0,0,912,1500,250,0,'ok',NULL,'hit',200,'req_1');
INSERT INTO "calls" VALUES('02run-a000000000000000005','run-a',1800000000000,'fast','openai','gpt-5-mini-2026-05-01','{"team":"search","\u00fcn\u00efcode":"\u2713"}','ann',312,48,7,5,3,0,0,10000000000,0,0,912,1500,250,0,'ok',NULL,'hit',200,'req_1');
INSERT INTO "calls" VALUES('02run-a000000000000000006','run-a',1800000000000,'fast','openai','gpt-5-mini-2026-05-01','{"team":"search","\u00fcn\u00efcode":"\u2713"}','ann',312,48,7,5,3,0,0,10000000000,0,0,912,1500,250,0,'ok',NULL,'hit',200,'req_1');
INSERT INTO "calls" VALUES('02run-a000000000000000007','run-a',1800000000000,'fast','openai','gpt-5-mini-2026-05-01','{"team":"search","\u00fcn\u00efcode":"\u2713"}','ann',312,48,7,5,3,0,0,10000000000,0,0,912,1500,250,0,'ok',NULL,'hit',200,'req_1');
INSERT INTO "calls" VALUES('02run-b000000000000000000','run-b',1800000000000,'fast','openai','gpt-5-mini-2026-05-01','{"team":"search","\u00fcn\u00efcode":"\u2713"}','ann',312,48,7,5,3,0,0,10000000000,0,0,912,1500,250,0,'ok',NULL,'hit',200,'req_1');
INSERT INTO "calls" VALUES('02run-b000000000000000001','run-b',1800000000000,'fast','openai','gpt-5-mini-2026-05-01','{"team":"search","\u00fcn\u00efcode":"\u2713"}','ann',312,48,7,5,3,0,0,10000000000,0,0,912,1500,250,0,'ok',NULL,'hit',200,'req_1');
INSERT INTO "calls" VALUES('02run-b000000000000000002','run-b',1800000000000,'fast','openai','gpt-5-mini-2026-05-01','{"team":"search","\u00fcn\u00efcode":"\u2713"}','ann',312,48,7,5,3,0,0,10000000000,0,0,912,1500,250,0,'ok',NULL,'hit',200,'req_1');
INSERT INTO "calls" VALUES('02run-b000000000000000003','run-b',1800000000000,'fast','openai','gpt-5-mini-2026-05-01','{"team":"search","\u00fcn\u00efcode":"\u2713"}','ann',312,48,7,5,3,0,0,10000000000,0,0,912,1500,250,0,'ok',NULL,'hit',200,'req_1');
INSERT INTO "calls" VALUES('02run-b000000000000000004','run-b',1800000000000,'fast','openai','gpt-5-mini-2026-05-01','{"team":"search","\u00fcn\u00efcode":"\u2713"}','ann',312,48,7,5,3,0,0,10000000000,0,0,912,1500,250,0,'ok',NULL,'hit',200,'req_1');
INSERT INTO "calls" VALUES('02run-b000000000000000005','run-b',1800000000000,'fast','openai','gpt-5-mini-2026-05-01','{"team":"search","\u00fcn\u00efcode":"\u2713"}','ann',312,48,7,5,3,0,0,10000000000,0,0,912,1500,250,0,'ok',NULL,'hit',200,'req_1');
INSERT INTO "calls" VALUES('02run-b000000000000000006','run-b',1800000000000,'fast','openai','gpt-5-mini-2026-05-01','{"team":"search","\u00fcn\u00efcode":"\u2713"}','ann',312,48,7,5,3,0,0,10000000000,0,0,912,1500,250,0,'ok',NULL,'hit',200,'req_1');
INSERT INTO "calls" VALUES('02run-b000000000000000007','run-b',1800000000000,'fast','openai','gpt-5-mini-2026-05-01','{"team":"search","\u00fcn\u00efcode":"\u2713"}','ann',312,48,7,5,3,0,0,10000000000,0,0,912,1500,250,0,'ok',NULL,'hit',200,'req_1');
INSERT INTO "calls" VALUES('02run-c000000000000000000','run-c',1800000000000,'fast','openai','gpt-5-mini-2026-05-01','{"team":"search","\u00fcn\u00efcode":"\u2713"}','bob',312,48,7,5,3,0,0,10000000000,0,0,912,1500,250,0,'ok',NULL,'hit',200,'req_1');
INSERT INTO "calls" VALUES('02run-c000000000000000001','run-c',1800000000000,'fast','openai','gpt-5-mini-2026-05-01','{"team":"search","\u00fcn\u00efcode":"\u2713"}','bob',312,48,7,5,3,0,0,10000000000,0,0,912,1500,250,0,'ok',NULL,'hit',200,'req_1');
INSERT INTO "calls" VALUES('02run-c000000000000000002','run-c',1800000000000,'fast','openai','gpt-5-mini-2026-05-01','{"team":"search","\u00fcn\u00efcode":"\u2713"}','bob',312,48,7,5,3,0,0,10000000000,0,0,912,1500,250,0,'ok',NULL,'hit',200,'req_1');
INSERT INTO "calls" VALUES('02run-c000000000000000003','run-c',1800000000000,'fast','openai','gpt-5-mini-2026-05-01','{"team":"search","\u00fcn\u00efcode":"\u2713"}','bob',312,48,7,5,3,0,0,10000000000,0,0,912,1500,250,0,'ok',NULL,'hit',200,'req_1');
INSERT INTO "calls" VALUES('02run-c000000000000000004','run-c',1800000000000,'fast','openai','gpt-5-mini-2026-05-01','{"team":"search","\u00fcn\u00efcode":"\u2713"}','bob',312,48,7,5,3,0,0,10000000000,0,0,912,1500,250,0,'ok',NULL,'hit',200,'req_1');
INSERT INTO "calls" VALUES('02run-c000000000000000005','run-c',1800000000000,'fast','openai','gpt-5-mini-2026-05-01','{"team":"search","\u00fcn\u00efcode":"\u2713"}','bob',312,48,7,5,3,0,0,10000000000,0,0,912,1500,250,0,'ok',NULL,'hit',200,'req_1');
INSERT INTO "calls" VALUES('02run-c000000000000000006','run-c',1800000000000,'fast','openai','gpt-5-mini-2026-05-01','{"team":"search","\u00fcn\u00efcode":"\u2713"}','bob',312,48,7,5,3,0,0,10000000000,0,0,912,1500,250,0,'ok',NULL,'hit',200,'req_1');
INSERT INTO "calls" VALUES('02run-c000000000000000007','run-c',1800000000000,'fast','openai','gpt-5-mini-2026-05-01','{"team":"search","\u00fcn\u00efcode":"\u2713"}','bob',312,48,7,5,3,0,0,10000000000,0,0,912,1500,250,0,'ok',NULL,'hit',200,'req_1');
INSERT INTO "calls" VALUES('03use','run-d',1800000000000,'fast','openai','gpt-5-mini-2026-05-01','{"team":"search","\u00fcn\u00efcode":"\u2713"}','eve',312,48,7,5,3,0,0,NULL,0,0,912,1500,250,2,'ok',NULL,'miss',200,'req_1');
CREATE TABLE holds (
                call_id TEXT NOT NULL PRIMARY KEY,
                run_id TEXT NOT NULL,
                at_ms INTEGER NOT NULL,
                profile TEXT NOT NULL,
                provider TEXT NOT NULL,
                model TEXT NOT NULL,
                tags TEXT NOT NULL,
                user TEXT NOT NULL,
                input_tokens INTEGER NOT NULL,
                output_tokens INTEGER NOT NULL,
                cost_pico INTEGER,
                pid INTEGER NOT NULL,
                birth TEXT NOT NULL,
                world TEXT NOT NULL
            , times INTEGER NOT NULL DEFAULT 1) WITHOUT ROWID
            ;
INSERT INTO "holds" VALUES('01run-a000000000000000014','run-a',1800000721000,'slow','openai','prod-chat','{}','ann',1000,500,419389536000,1,'1','another-boot pid:[4026531836]',1);
INSERT INTO "holds" VALUES('01run-b000000000000000030','run-b',1799892825000,'slow','openai','prod-chat','{"team":"x"}','ann',1000,500,333760055000,1,'1','another-boot pid:[4026531836]',1);
INSERT INTO "holds" VALUES('01run-b000000000000000031','run-b',1799989938000,'fast','openai','prod','{"team":"x"}','ann',1000,500,665443267000,1,'1','another-boot pid:[4026531836]',1);
INSERT INTO "holds" VALUES('01run-b000000000000000032','run-b',1799823665000,'fast','openai','prod-chat','{"job":"nightly"}','ann',1000,500,13121501000,1,'1','another-boot pid:[4026531836]',1);
INSERT INTO "holds" VALUES('01run-b000000000000000033','run-b',1800008339000,'slow','openai','prod-chat','{}','ann',1000,500,104040175000,1,'1','another-boot pid:[4026531836]',1);
INSERT INTO "holds" VALUES('01run-b000000000000000034','run-b',1799950059000,'slow','openai','gpt-5-mini','{"team":"x"}','ann',1000,500,972706453000,1,'1','another-boot pid:[4026531836]',1);
INSERT INTO "holds" VALUES('01run-c000000000000000012','run-c',1799801390000,'slow','openai','gpt-5-mini','{}','bob',1000,500,401710390000,1,'1','another-boot pid:[4026531836]',1);
INSERT INTO "holds" VALUES('01run-c000000000000000013','run-c',1799983909000,'slow','openai','prod','{"job":"nightly"}','bob',1000,500,913848832000,1,'1','another-boot pid:[4026531836]',1);
INSERT INTO "holds" VALUES('01run-c000000000000000014','run-c',1799951983000,'fast','openai','prod-chat','{}','bob',1000,500,29827113000,1,'1','another-boot pid:[4026531836]',1);
INSERT INTO "holds" VALUES('04open','run-d',1800000000000,'fast','openai','gpt-5-mini','{"team":"search","\u00fcn\u00efcode":"\u2713"}','eve',1000,500,700000000000,1,'1','another-boot pid:[4026531836]',2);
CREATE TABLE migrations (name TEXT PRIMARY KEY) WITHOUT ROWID;
INSERT INTO "migrations" VALUES('ledger-001-calls-and-holds');
INSERT INTO "migrations" VALUES('ledger-002-slots');
INSERT INTO "migrations" VALUES('ledger-003-budgets');
INSERT INTO "migrations" VALUES('ledger-004-together');
CREATE TABLE slots (
                slot INTEGER NOT NULL, profile TEXT NOT NULL, provider TEXT NOT NULL, model TEXT NOT NULL, user TEXT NOT NULL, tags TEXT NOT NULL, calls INTEGER NOT NULL, errors INTEGER NOT NULL, kept INTEGER NOT NULL, input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL, cache_write_tokens INTEGER NOT NULL, reasoning_tokens INTEGER NOT NULL, cost_pico INTEGER NOT NULL, unpriced INTEGER NOT NULL, saved_pico INTEGER NOT NULL, unsaved INTEGER NOT NULL, doubtful INTEGER NOT NULL, doubtful_pico INTEGER NOT NULL, doubtful_unpriced INTEGER NOT NULL, PRIMARY KEY (slot, profile, provider, model, user, tags)
            ) WITHOUT ROWID
            ;
INSERT INTO "slots" VALUES(499928,'slow','openai','gpt-5-mini-2026-05-01','ann','{"job":"nightly"}',1,0,0,312,48,7,5,3,23762244500,0,0,0,1,47524489000,0);
INSERT INTO "slots" VALUES(499930,'fast','openai','gpt-5-mini-2026-05-01','ann','{"job":"nightly"}',1,0,0,312,48,7,5,3,310360407500,0,0,0,1,620720815000,0);
INSERT INTO "slots" VALUES(499933,'slow','openai','gpt-5-mini-2026-05-01','ann','{"job":"nightly"}',1,0,0,312,48,7,5,3,62314238560,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(499937,'fast','openai','prod-chat-2026-05-01','ann','{"job":"nightly"}',1,0,0,312,48,7,5,3,324995184360,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(499939,'fast','openai','gpt-5-mini-2026-05-01','ann','{"job":"nightly"}',1,0,0,312,48,7,5,3,130257060500,0,0,0,1,260514121000,0);
INSERT INTO "slots" VALUES(499939,'slow','openai','gpt-5-mini-2026-05-01','ann','{"job":"nightly"}',1,0,0,312,48,7,5,3,25480687180,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(499939,'slow','openai','prod-chat','ann','{"team":"x"}',1,1,0,0,0,0,0,0,0,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(499940,'fast','openai','gpt-5-mini-2026-05-01','ann','{"job":"nightly"}',1,0,0,312,48,7,5,3,504981218300,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(499941,'fast','openai','gpt-5-mini','ann','{}',1,0,0,312,48,7,5,3,317198594880,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(499942,'slow','openai','prod-chat','ann','{}',1,0,0,312,48,7,5,3,0,1,0,0,0,0,0);
INSERT INTO "slots" VALUES(499945,'slow','openai','gpt-5-mini-2026-05-01','ann','{"job":"nightly"}',1,0,0,312,48,7,5,3,436565410000,0,0,0,1,873130820000,0);
INSERT INTO "slots" VALUES(499945,'slow','openai','gpt-5-mini-2026-05-01','bob','{}',1,0,0,312,48,7,5,3,288338937000,0,0,0,1,576677874000,0);
INSERT INTO "slots" VALUES(499951,'slow','openai','prod','ann','{"team":"x"}',1,1,0,1000,500,0,0,0,250000000000,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(499952,'slow','openai','gpt-5-mini','ann','{"team":"x"}',1,0,0,312,48,7,5,3,12801879120,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(499952,'slow','openai','prod','ann','{"team":"x"}',1,0,0,312,48,7,5,3,308444253300,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(499953,'fast','openai','gpt-5-mini','bob','{"team":"x"}',1,1,0,0,0,0,0,0,0,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(499953,'fast','openai','prod-chat-2026-05-01','bob','{"job":"nightly"}',1,0,0,312,48,7,5,3,221710077840,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(499953,'slow','openai','prod-2026-05-01','ann','{}',1,0,0,312,48,7,5,3,154273266150,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(499955,'fast','openai','prod','bob','{"job":"nightly"}',1,0,0,312,48,7,5,3,3745100950,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(499955,'fast','openai','prod-chat','ann','{"team":"x"}',1,0,0,312,48,7,5,3,379302067480,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(499955,'slow','openai','prod-chat','ann','{}',1,0,0,312,48,7,5,3,20864473120,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(499956,'slow','openai','gpt-5-mini','ann','{"job":"nightly"}',1,0,0,312,48,7,5,3,791083757050,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(499958,'fast','openai','prod-chat','bob','{}',1,0,0,312,48,7,5,3,617632991170,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(499958,'fast','openai','prod-chat-2026-05-01','ann','{"team":"x"}',1,0,0,312,48,7,5,3,6987863400,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(499960,'slow','openai','prod-chat','ann','{}',1,0,0,312,48,7,5,3,578738332160,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(499962,'fast','openai','prod-2026-05-01','ann','{"team":"x"}',1,0,0,312,48,7,5,3,35383125960,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(499963,'fast','openai','prod','ann','{"job":"nightly"}',1,0,0,312,48,7,5,3,648929187410,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(499967,'fast','openai','prod-chat-2026-05-01','ann','{"team":"x"}',1,0,0,312,48,7,5,3,615937296240,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(499968,'fast','openai','prod','bob','{}',1,1,0,0,0,0,0,0,0,0,0,0,1,164932249000,0);
INSERT INTO "slots" VALUES(499968,'slow','openai','prod','ann','{"job":"nightly"}',1,1,0,0,0,0,0,0,0,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(499969,'slow','openai','gpt-5-mini-2026-05-01','ann','{"team":"x"}',1,0,0,312,48,7,5,3,523062581600,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(499970,'fast','openai','gpt-5-mini','bob','{}',1,0,0,312,48,7,5,3,43741952960,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(499972,'fast','openai','gpt-5-mini','ann','{"job":"nightly"}',1,1,0,0,0,0,0,0,0,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(499972,'slow','openai','prod','ann','{}',1,0,0,312,48,7,5,3,228295832080,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(499975,'fast','openai','prod-chat','ann','{"team":"x"}',1,0,0,312,48,7,5,3,385580258630,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(499977,'slow','openai','prod-2026-05-01','ann','{"job":"nightly"}',1,0,0,312,48,7,5,3,398260913260,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(499978,'fast','openai','gpt-5-mini','ann','{"job":"nightly"}',1,0,0,312,48,7,5,3,763453412720,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(499978,'fast','openai','prod-2026-05-01','ann','{"job":"nightly"}',1,0,0,312,48,7,5,3,114782528640,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(499978,'slow','openai','prod-2026-05-01','ann','{}',1,0,0,312,48,7,5,3,325036099440,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(499980,'slow','openai','prod','ann','{}',1,1,0,0,0,0,0,0,0,0,0,0,1,268431885000,0);
INSERT INTO "slots" VALUES(499981,'slow','openai','prod','bob','{"team":"x"}',1,0,0,312,48,7,5,3,176075577470,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(499981,'slow','openai','prod-chat-2026-05-01','ann','{"job":"nightly"}',1,0,0,312,48,7,5,3,0,1,0,0,0,0,0);
INSERT INTO "slots" VALUES(499982,'slow','openai','gpt-5-mini-2026-05-01','ann','{"team":"x"}',1,0,0,312,48,7,5,3,212888444000,0,0,0,1,425776888000,0);
INSERT INTO "slots" VALUES(499988,'slow','openai','prod-chat','bob','{"team":"x"}',1,0,0,312,48,7,5,3,100429318880,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(499989,'fast','openai','gpt-5-mini-2026-05-01','ann','{"job":"nightly"}',1,0,0,312,48,7,5,3,204873153500,0,0,0,1,409746307000,0);
INSERT INTO "slots" VALUES(499989,'slow','openai','prod','ann','{"team":"x"}',1,0,0,312,48,7,5,3,379206570770,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(499990,'slow','openai','gpt-5-mini','bob','{"team":"x"}',1,0,0,312,48,7,5,3,228625196300,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(499991,'fast','openai','prod','ann','{}',1,0,0,312,48,7,5,3,269072145760,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(499991,'slow','openai','gpt-5-mini','bob','{}',1,0,0,312,48,7,5,3,49761687500,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(499992,'slow','openai','gpt-5-mini-2026-05-01','ann','{}',1,0,0,312,48,7,5,3,773845959120,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(499994,'fast','openai','gpt-5-mini','bob','{"team":"x"}',1,0,0,312,48,7,5,3,327303137070,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(499994,'slow','openai','gpt-5-mini-2026-05-01','ann','{}',1,0,0,312,48,7,5,3,65394731360,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(499994,'slow','openai','prod','ann','{"team":"x"}',1,0,0,312,48,7,5,3,116856453840,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(499997,'fast','openai','prod','ann','{}',1,1,0,0,0,0,0,0,0,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(499997,'fast','openai','prod-chat','ann','{}',1,1,0,0,0,0,0,0,0,0,0,0,1,689986732000,0);
INSERT INTO "slots" VALUES(500000,'fast','openai','gpt-5-mini-2026-05-01','ann','{"team":"search","\u00fcn\u00efcode":"\u2713"}',16,0,16,0,0,0,0,0,0,0,160000000000,0,0,0,0);
INSERT INTO "slots" VALUES(500000,'fast','openai','gpt-5-mini-2026-05-01','bob','{"team":"search","\u00fcn\u00efcode":"\u2713"}',8,0,8,0,0,0,0,0,0,0,80000000000,0,0,0,0);
INSERT INTO "slots" VALUES(500000,'fast','openai','gpt-5-mini-2026-05-01','eve','{"team":"search","\u00fcn\u00efcode":"\u2713"}',1,0,0,312,48,7,5,3,0,0,0,0,0,0,0);
INSERT INTO "slots" VALUES(500002,'fast','openai','gpt-5-mini','ann','{"team":"x"}',1,0,0,312,48,7,5,3,731783962040,0,0,0,0,0,0);
CREATE TABLE together (one INTEGER PRIMARY KEY);
CREATE INDEX calls_started ON calls (
                started_ms, call_id, model, profile, provider, user, status, cache, input_tokens,
                output_tokens, cached_tokens, cache_write_tokens, reasoning_tokens,
                cost_pico, saved_pico, uncertain, uncertain_pico, latency_ms
            )
            ;
CREATE INDEX calls_run ON calls (run_id);
CREATE TRIGGER calls_are_final BEFORE UPDATE ON calls WHEN OLD.status <> 'unknown'
            BEGIN SELECT RAISE(ABORT, 'the row of a call is final'); END;
CREATE TRIGGER calls_stay BEFORE DELETE ON calls
            BEGIN SELECT RAISE(ABORT, 'the ledger only grows'); END;
CREATE TRIGGER calls_become_known AFTER UPDATE ON calls
            BEGIN UPDATE slots SET calls = calls - (1), errors = errors - (OLD.status IN ('error', 'interrupted', 'unknown')), kept = kept - (coalesce(OLD.cache IN ('hit', 'shared'), 0)), input_tokens = input_tokens - (iif((OLD.cache IS NULL OR NOT OLD.cache IN ('hit', 'shared')) AND NOT OLD.status = 'unknown', OLD.input_tokens, 0)), output_tokens = output_tokens - (iif((OLD.cache IS NULL OR NOT OLD.cache IN ('hit', 'shared')) AND NOT OLD.status = 'unknown', OLD.output_tokens, 0)), cached_tokens = cached_tokens - (iif((OLD.cache IS NULL OR NOT OLD.cache IN ('hit', 'shared')) AND NOT OLD.status = 'unknown', OLD.cached_tokens, 0)), cache_write_tokens = cache_write_tokens - (iif((OLD.cache IS NULL OR NOT OLD.cache IN ('hit', 'shared')) AND NOT OLD.status = 'unknown', OLD.cache_write_tokens, 0)), reasoning_tokens = reasoning_tokens - (iif((OLD.cache IS NULL OR NOT OLD.cache IN ('hit', 'shared')) AND NOT OLD.status = 'unknown', OLD.reasoning_tokens, 0)), cost_pico = cost_pico - (iif(OLD.status = 'unknown', 0, coalesce(OLD.cost_pico, 0))), unpriced = unpriced - ((OLD.cost_pico IS NULL AND NOT OLD.status = 'unknown')), saved_pico = saved_pico - (coalesce(OLD.saved_pico, 0)), unsaved = unsaved - ((coalesce(OLD.cache IN ('hit', 'shared'), 0) AND OLD.saved_pico IS NULL)), doubtful = doubtful - (OLD.uncertain + (OLD.status = 'unknown')), doubtful_pico = doubtful_pico - (coalesce(OLD.uncertain_pico, 0) + iif(OLD.status = 'unknown', coalesce(OLD.cost_pico, 0), 0)), doubtful_unpriced = doubtful_unpriced - ((OLD.uncertain > 0 AND OLD.uncertain_pico IS NULL) + (OLD.status = 'unknown' AND OLD.cost_pico IS NULL)) WHERE slot = OLD.started_ms / 3600000 AND profile = OLD.profile AND provider = OLD.provider AND model = OLD.model AND user = OLD.user AND tags = OLD.tags; 
        INSERT INTO slots SELECT NEW.started_ms / 3600000, NEW.profile, NEW.provider, NEW.model, NEW.user, NEW.tags, 1, NEW.status IN ('error', 'interrupted', 'unknown'), coalesce(NEW.cache IN ('hit', 'shared'), 0), iif((NEW.cache IS NULL OR NOT NEW.cache IN ('hit', 'shared')) AND NOT NEW.status = 'unknown', NEW.input_tokens, 0), iif((NEW.cache IS NULL OR NOT NEW.cache IN ('hit', 'shared')) AND NOT NEW.status = 'unknown', NEW.output_tokens, 0), iif((NEW.cache IS NULL OR NOT NEW.cache IN ('hit', 'shared')) AND NOT NEW.status = 'unknown', NEW.cached_tokens, 0), iif((NEW.cache IS NULL OR NOT NEW.cache IN ('hit', 'shared')) AND NOT NEW.status = 'unknown', NEW.cache_write_tokens, 0), iif((NEW.cache IS NULL OR NOT NEW.cache IN ('hit', 'shared')) AND NOT NEW.status = 'unknown', NEW.reasoning_tokens, 0), iif(NEW.status = 'unknown', 0, coalesce(NEW.cost_pico, 0)), (NEW.cost_pico IS NULL AND NOT NEW.status = 'unknown'), coalesce(NEW.saved_pico, 0), (coalesce(NEW.cache IN ('hit', 'shared'), 0) AND NEW.saved_pico IS NULL), NEW.uncertain + (NEW.status = 'unknown'), coalesce(NEW.uncertain_pico, 0) + iif(NEW.status = 'unknown', coalesce(NEW.cost_pico, 0), 0), (NEW.uncertain > 0 AND NEW.uncertain_pico IS NULL) + (NEW.status = 'unknown' AND NEW.cost_pico IS NULL) 
        ON CONFLICT DO UPDATE SET calls = calls + excluded.calls, errors = errors + excluded.errors, kept = kept + excluded.kept, input_tokens = input_tokens + excluded.input_tokens, output_tokens = output_tokens + excluded.output_tokens, cached_tokens = cached_tokens + excluded.cached_tokens, cache_write_tokens = cache_write_tokens + excluded.cache_write_tokens, reasoning_tokens = reasoning_tokens + excluded.reasoning_tokens, cost_pico = cost_pico + excluded.cost_pico, unpriced = unpriced + excluded.unpriced, saved_pico = saved_pico + excluded.saved_pico, unsaved = unsaved + excluded.unsaved, doubtful = doubtful + excluded.doubtful, doubtful_pico = doubtful_pico + excluded.doubtful_pico, doubtful_unpriced = doubtful_unpriced + excluded.doubtful_unpriced;
     END;
CREATE INDEX calls_latency ON calls (
                profile, provider, model, user, started_ms, latency_ms, status, cache, tags
            )
            ;
CREATE TRIGGER calls_are_spent_otherwise AFTER UPDATE ON calls
        BEGIN UPDATE budget_windows SET spent_pico = spent_pico - (coalesce(OLD.cost_pico, 0) + coalesce(OLD.uncertain_pico, 0)) WHERE OLD.started_ms >= budget_windows.start_ms AND OLD.started_ms < budget_windows.end_ms AND (budget_windows.run_id IS NULL OR budget_windows.run_id = OLD.run_id) AND (budget_windows.profile IS NULL OR budget_windows.profile = OLD.profile) AND (budget_windows.provider IS NULL OR budget_windows.provider = OLD.provider) AND (budget_windows.user IS NULL OR budget_windows.user = OLD.user) AND (budget_windows.model IS NULL OR ((substr(OLD.model, 1, length(budget_windows.model)) = budget_windows.model AND (substr(OLD.model, length(budget_windows.model) + 1) IN ('', '-latest') OR (substr(substr(OLD.model, length(budget_windows.model) + 1), 1, 1) = '-' AND length(ltrim(substr(substr(OLD.model, length(budget_windows.model) + 1), 2), '0123456789')) <= length(substr(OLD.model, length(budget_windows.model) + 1)) - 4 AND substr(ltrim(substr(substr(OLD.model, length(budget_windows.model) + 1), 2), '0123456789'), 1, 1) IN ('', '-')))) OR (substr((SELECT model FROM holds WHERE call_id = OLD.call_id), 1, length(budget_windows.model)) = budget_windows.model AND (substr((SELECT model FROM holds WHERE call_id = OLD.call_id), length(budget_windows.model) + 1) IN ('', '-latest') OR (substr(substr((SELECT model FROM holds WHERE call_id = OLD.call_id), length(budget_windows.model) + 1), 1, 1) = '-' AND length(ltrim(substr(substr((SELECT model FROM holds WHERE call_id = OLD.call_id), length(budget_windows.model) + 1), 2), '0123456789')) <= length(substr((SELECT model FROM holds WHERE call_id = OLD.call_id), length(budget_windows.model) + 1)) - 4 AND substr(ltrim(substr(substr((SELECT model FROM holds WHERE call_id = OLD.call_id), length(budget_windows.model) + 1), 2), '0123456789'), 1, 1) IN ('', '-')))))) AND (budget_windows.tags IS NULL OR NOT EXISTS (SELECT 1 FROM json_each(budget_windows.tags) AS wanted WHERE wanted.value IS NOT (SELECT value FROM json_each(OLD.tags) AS had WHERE had.key = wanted.key))); UPDATE budget_windows SET spent_pico = spent_pico + (coalesce(NEW.cost_pico, 0) + coalesce(NEW.uncertain_pico, 0)) WHERE NEW.started_ms >= budget_windows.start_ms AND NEW.started_ms < budget_windows.end_ms AND (budget_windows.run_id IS NULL OR budget_windows.run_id = NEW.run_id) AND (budget_windows.profile IS NULL OR budget_windows.profile = NEW.profile) AND (budget_windows.provider IS NULL OR budget_windows.provider = NEW.provider) AND (budget_windows.user IS NULL OR budget_windows.user = NEW.user) AND (budget_windows.model IS NULL OR ((substr(NEW.model, 1, length(budget_windows.model)) = budget_windows.model AND (substr(NEW.model, length(budget_windows.model) + 1) IN ('', '-latest') OR (substr(substr(NEW.model, length(budget_windows.model) + 1), 1, 1) = '-' AND length(ltrim(substr(substr(NEW.model, length(budget_windows.model) + 1), 2), '0123456789')) <= length(substr(NEW.model, length(budget_windows.model) + 1)) - 4 AND substr(ltrim(substr(substr(NEW.model, length(budget_windows.model) + 1), 2), '0123456789'), 1, 1) IN ('', '-')))) OR (substr((SELECT model FROM holds WHERE call_id = NEW.call_id), 1, length(budget_windows.model)) = budget_windows.model AND (substr((SELECT model FROM holds WHERE call_id = NEW.call_id), length(budget_windows.model) + 1) IN ('', '-latest') OR (substr(substr((SELECT model FROM holds WHERE call_id = NEW.call_id), length(budget_windows.model) + 1), 1, 1) = '-' AND length(ltrim(substr(substr((SELECT model FROM holds WHERE call_id = NEW.call_id), length(budget_windows.model) + 1), 2), '0123456789')) <= length(substr((SELECT model FROM holds WHERE call_id = NEW.call_id), length(budget_windows.model) + 1)) - 4 AND substr(ltrim(substr(substr((SELECT model FROM holds WHERE call_id = NEW.call_id), length(budget_windows.model) + 1), 2), '0123456789'), 1, 1) IN ('', '-')))))) AND (budget_windows.tags IS NULL OR NOT EXISTS (SELECT 1 FROM json_each(budget_windows.tags) AS wanted WHERE wanted.value IS NOT (SELECT value FROM json_each(NEW.tags) AS had WHERE had.key = wanted.key))); END;
CREATE TRIGGER holds_change AFTER UPDATE ON holds
        BEGIN UPDATE budget_windows SET held_pico = held_pico - (coalesce(OLD.cost_pico, 0) * OLD.times) WHERE OLD.at_ms >= budget_windows.start_ms AND OLD.at_ms < budget_windows.end_ms AND (budget_windows.run_id IS NULL OR budget_windows.run_id = OLD.run_id) AND (budget_windows.profile IS NULL OR budget_windows.profile = OLD.profile) AND (budget_windows.provider IS NULL OR budget_windows.provider = OLD.provider) AND (budget_windows.user IS NULL OR budget_windows.user = OLD.user) AND (budget_windows.model IS NULL OR (substr(OLD.model, 1, length(budget_windows.model)) = budget_windows.model AND (substr(OLD.model, length(budget_windows.model) + 1) IN ('', '-latest') OR (substr(substr(OLD.model, length(budget_windows.model) + 1), 1, 1) = '-' AND length(ltrim(substr(substr(OLD.model, length(budget_windows.model) + 1), 2), '0123456789')) <= length(substr(OLD.model, length(budget_windows.model) + 1)) - 4 AND substr(ltrim(substr(substr(OLD.model, length(budget_windows.model) + 1), 2), '0123456789'), 1, 1) IN ('', '-'))))) AND (budget_windows.tags IS NULL OR NOT EXISTS (SELECT 1 FROM json_each(budget_windows.tags) AS wanted WHERE wanted.value IS NOT (SELECT value FROM json_each(OLD.tags) AS had WHERE had.key = wanted.key))); UPDATE budget_windows SET held_pico = held_pico + (coalesce(NEW.cost_pico, 0) * NEW.times) WHERE NEW.at_ms >= budget_windows.start_ms AND NEW.at_ms < budget_windows.end_ms AND (budget_windows.run_id IS NULL OR budget_windows.run_id = NEW.run_id) AND (budget_windows.profile IS NULL OR budget_windows.profile = NEW.profile) AND (budget_windows.provider IS NULL OR budget_windows.provider = NEW.provider) AND (budget_windows.user IS NULL OR budget_windows.user = NEW.user) AND (budget_windows.model IS NULL OR (substr(NEW.model, 1, length(budget_windows.model)) = budget_windows.model AND (substr(NEW.model, length(budget_windows.model) + 1) IN ('', '-latest') OR (substr(substr(NEW.model, length(budget_windows.model) + 1), 1, 1) = '-' AND length(ltrim(substr(substr(NEW.model, length(budget_windows.model) + 1), 2), '0123456789')) <= length(substr(NEW.model, length(budget_windows.model) + 1)) - 4 AND substr(ltrim(substr(substr(NEW.model, length(budget_windows.model) + 1), 2), '0123456789'), 1, 1) IN ('', '-'))))) AND (budget_windows.tags IS NULL OR NOT EXISTS (SELECT 1 FROM json_each(budget_windows.tags) AS wanted WHERE wanted.value IS NOT (SELECT value FROM json_each(NEW.tags) AS had WHERE had.key = wanted.key))); END;
CREATE TRIGGER calls_add_up AFTER INSERT ON calls WHEN NOT EXISTS (SELECT 1 FROM together)
        BEGIN 
        INSERT INTO slots SELECT NEW.started_ms / 3600000, NEW.profile, NEW.provider, NEW.model, NEW.user, NEW.tags, 1, NEW.status IN ('error', 'interrupted', 'unknown'), coalesce(NEW.cache IN ('hit', 'shared'), 0), iif((NEW.cache IS NULL OR NOT NEW.cache IN ('hit', 'shared')) AND NOT NEW.status = 'unknown', NEW.input_tokens, 0), iif((NEW.cache IS NULL OR NOT NEW.cache IN ('hit', 'shared')) AND NOT NEW.status = 'unknown', NEW.output_tokens, 0), iif((NEW.cache IS NULL OR NOT NEW.cache IN ('hit', 'shared')) AND NOT NEW.status = 'unknown', NEW.cached_tokens, 0), iif((NEW.cache IS NULL OR NOT NEW.cache IN ('hit', 'shared')) AND NOT NEW.status = 'unknown', NEW.cache_write_tokens, 0), iif((NEW.cache IS NULL OR NOT NEW.cache IN ('hit', 'shared')) AND NOT NEW.status = 'unknown', NEW.reasoning_tokens, 0), iif(NEW.status = 'unknown', 0, coalesce(NEW.cost_pico, 0)), (NEW.cost_pico IS NULL AND NOT NEW.status = 'unknown'), coalesce(NEW.saved_pico, 0), (coalesce(NEW.cache IN ('hit', 'shared'), 0) AND NEW.saved_pico IS NULL), NEW.uncertain + (NEW.status = 'unknown'), coalesce(NEW.uncertain_pico, 0) + iif(NEW.status = 'unknown', coalesce(NEW.cost_pico, 0), 0), (NEW.uncertain > 0 AND NEW.uncertain_pico IS NULL) + (NEW.status = 'unknown' AND NEW.cost_pico IS NULL) 
        ON CONFLICT DO UPDATE SET calls = calls + excluded.calls, errors = errors + excluded.errors, kept = kept + excluded.kept, input_tokens = input_tokens + excluded.input_tokens, output_tokens = output_tokens + excluded.output_tokens, cached_tokens = cached_tokens + excluded.cached_tokens, cache_write_tokens = cache_write_tokens + excluded.cache_write_tokens, reasoning_tokens = reasoning_tokens + excluded.reasoning_tokens, cost_pico = cost_pico + excluded.cost_pico, unpriced = unpriced + excluded.unpriced, saved_pico = saved_pico + excluded.saved_pico, unsaved = unsaved + excluded.unsaved, doubtful = doubtful + excluded.doubtful, doubtful_pico = doubtful_pico + excluded.doubtful_pico, doubtful_unpriced = doubtful_unpriced + excluded.doubtful_unpriced;
     UPDATE budget_windows SET spent_pico = spent_pico + (coalesce(NEW.cost_pico, 0) + coalesce(NEW.uncertain_pico, 0)) WHERE NEW.started_ms >= budget_windows.start_ms AND NEW.started_ms < budget_windows.end_ms AND (budget_windows.run_id IS NULL OR budget_windows.run_id = NEW.run_id) AND (budget_windows.profile IS NULL OR budget_windows.profile = NEW.profile) AND (budget_windows.provider IS NULL OR budget_windows.provider = NEW.provider) AND (budget_windows.user IS NULL OR budget_windows.user = NEW.user) AND (budget_windows.model IS NULL OR ((substr(NEW.model, 1, length(budget_windows.model)) = budget_windows.model AND (substr(NEW.model, length(budget_windows.model) + 1) IN ('', '-latest') OR (substr(substr(NEW.model, length(budget_windows.model) + 1), 1, 1) = '-' AND length(ltrim(substr(substr(NEW.model, length(budget_windows.model) + 1), 2), '0123456789')) <= length(substr(NEW.model, length(budget_windows.model) + 1)) - 4 AND substr(ltrim(substr(substr(NEW.model, length(budget_windows.model) + 1), 2), '0123456789'), 1, 1) IN ('', '-')))) OR (substr((SELECT model FROM holds WHERE call_id = NEW.call_id), 1, length(budget_windows.model)) = budget_windows.model AND (substr((SELECT model FROM holds WHERE call_id = NEW.call_id), length(budget_windows.model) + 1) IN ('', '-latest') OR (substr(substr((SELECT model FROM holds WHERE call_id = NEW.call_id), length(budget_windows.model) + 1), 1, 1) = '-' AND length(ltrim(substr(substr((SELECT model FROM holds WHERE call_id = NEW.call_id), length(budget_windows.model) + 1), 2), '0123456789')) <= length(substr((SELECT model FROM holds WHERE call_id = NEW.call_id), length(budget_windows.model) + 1)) - 4 AND substr(ltrim(substr(substr((SELECT model FROM holds WHERE call_id = NEW.call_id), length(budget_windows.model) + 1), 2), '0123456789'), 1, 1) IN ('', '-')))))) AND (budget_windows.tags IS NULL OR NOT EXISTS (SELECT 1 FROM json_each(budget_windows.tags) AS wanted WHERE wanted.value IS NOT (SELECT value FROM json_each(NEW.tags) AS had WHERE had.key = wanted.key))) AND (NEW.cost_pico > 0 OR NEW.uncertain_pico > 0); END;
CREATE TRIGGER holds_begin AFTER INSERT ON holds WHEN NOT EXISTS (SELECT 1 FROM together)
        BEGIN UPDATE budget_windows SET held_pico = held_pico + (coalesce(NEW.cost_pico, 0) * NEW.times) WHERE NEW.at_ms >= budget_windows.start_ms AND NEW.at_ms < budget_windows.end_ms AND (budget_windows.run_id IS NULL OR budget_windows.run_id = NEW.run_id) AND (budget_windows.profile IS NULL OR budget_windows.profile = NEW.profile) AND (budget_windows.provider IS NULL OR budget_windows.provider = NEW.provider) AND (budget_windows.user IS NULL OR budget_windows.user = NEW.user) AND (budget_windows.model IS NULL OR (substr(NEW.model, 1, length(budget_windows.model)) = budget_windows.model AND (substr(NEW.model, length(budget_windows.model) + 1) IN ('', '-latest') OR (substr(substr(NEW.model, length(budget_windows.model) + 1), 1, 1) = '-' AND length(ltrim(substr(substr(NEW.model, length(budget_windows.model) + 1), 2), '0123456789')) <= length(substr(NEW.model, length(budget_windows.model) + 1)) - 4 AND substr(ltrim(substr(substr(NEW.model, length(budget_windows.model) + 1), 2), '0123456789'), 1, 1) IN ('', '-'))))) AND (budget_windows.tags IS NULL OR NOT EXISTS (SELECT 1 FROM json_each(budget_windows.tags) AS wanted WHERE wanted.value IS NOT (SELECT value FROM json_each(NEW.tags) AS had WHERE had.key = wanted.key))); END;
CREATE TRIGGER holds_end AFTER DELETE ON holds WHEN NOT EXISTS (SELECT 1 FROM together)
        BEGIN UPDATE budget_windows SET held_pico = held_pico - (coalesce(OLD.cost_pico, 0) * OLD.times) WHERE OLD.at_ms >= budget_windows.start_ms AND OLD.at_ms < budget_windows.end_ms AND (budget_windows.run_id IS NULL OR budget_windows.run_id = OLD.run_id) AND (budget_windows.profile IS NULL OR budget_windows.profile = OLD.profile) AND (budget_windows.provider IS NULL OR budget_windows.provider = OLD.provider) AND (budget_windows.user IS NULL OR budget_windows.user = OLD.user) AND (budget_windows.model IS NULL OR (substr(OLD.model, 1, length(budget_windows.model)) = budget_windows.model AND (substr(OLD.model, length(budget_windows.model) + 1) IN ('', '-latest') OR (substr(substr(OLD.model, length(budget_windows.model) + 1), 1, 1) = '-' AND length(ltrim(substr(substr(OLD.model, length(budget_windows.model) + 1), 2), '0123456789')) <= length(substr(OLD.model, length(budget_windows.model) + 1)) - 4 AND substr(ltrim(substr(substr(OLD.model, length(budget_windows.model) + 1), 2), '0123456789'), 1, 1) IN ('', '-'))))) AND (budget_windows.tags IS NULL OR NOT EXISTS (SELECT 1 FROM json_each(budget_windows.tags) AS wanted WHERE wanted.value IS NOT (SELECT value FROM json_each(OLD.tags) AS had WHERE had.key = wanted.key))); END;
COMMIT;
